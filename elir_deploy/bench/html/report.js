"use strict";

// Moves the slider, hands out the JSON. All data is in the page.
(() => {
  const byId = (id) => document.getElementById(id);

  // On paper, everything is open.

  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")];
    for (const one of closed) one.open = true;
  });
  addEventListener("afterprint", () => {
    for (const one of closed) one.open = false;
  });

  // Pictures

  const pictures = JSON.parse(byId("pictures-data").textContent);

  function showPictures() {
    const [frame, range] = [byId("frame"), byId("cut")];
    const [before, after] = [byId("before"), byId("after")];
    const [picture, left, right] = [byId("picture"), byId("left"), byId("right")];
    // By number, not by value: names may repeat.
    const fill = (select, names) => select.replaceChildren(...names.map((name) => new Option(name)));
    let versions = []; // name and address of each

    const cut = () => frame.style.setProperty("--cut", `${range.value}%`);

    function show() {
      for (const [select, image, caption] of [[left, before, "left-name"], [right, after, "right-name"]]) {
        const [name, address] = versions[select.selectedIndex];
        image.src = address;
        image.alt = byId(caption).textContent = name;
      }
    }

    function choose() {
      const chosen = pictures[picture.selectedIndex];
      const was = [left, right].map((select) => select.selectedOptions[0]?.textContent);
      versions = [["input", chosen.before], ...chosen.after];
      const names = versions.map(([name]) => name);
      [left, right].forEach((select, side) => {
        fill(select, names);
        const same = names.indexOf(was[side]);
        select.selectedIndex = same >= 0 ? same : Math.min(side, names.length - 1);
      });
      frame.style.aspectRatio = `${chosen.size[0]} / ${chosen.size[1]}`;
      frame.classList.toggle("enlarged", chosen.size[0] < 256); // pixels as they are, not blurred
      show();
    }

    function drag(event) {
      if (event.type === "pointermove" && !frame.hasPointerCapture(event.pointerId)) return;
      if (event.type === "pointerdown") frame.setPointerCapture(event.pointerId);
      const box = frame.getBoundingClientRect();
      range.value = (100 * (event.clientX - box.left)) / box.width;
      cut();
    }

    fill(picture, pictures.map((one) => one.name));
    picture.addEventListener("change", choose);
    left.addEventListener("change", show);
    right.addEventListener("change", show);
    range.addEventListener("input", cut);
    frame.addEventListener("pointerdown", drag);
    frame.addEventListener("pointermove", drag);
    choose();
    cut();
  }

  if (pictures.length > 0) showPictures();

  // JSON, which is packed: samples are long.

  async function unpack(letters) {
    const bytes = Uint8Array.from(atob(letters), (letter) => letter.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).blob();
  }

  byId("download").addEventListener("click", async (event) => {
    const link = document.createElement("a");
    link.download = event.currentTarget.dataset.name;
    link.href = URL.createObjectURL(await unpack(byId("report").textContent));
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
})();
