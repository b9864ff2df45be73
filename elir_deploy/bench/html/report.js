"use strict";

// Draws the charts, moves the slider, hands out the JSON. All data is in the page.
(() => {
  const byId = (id) => document.getElementById(id);
  const parsed = (id) => JSON.parse(byId(id).textContent);

  // Charts

  const byTouch = matchMedia("(pointer: coarse)").matches;
  const config = {
    displaylogo: false,
    // Named one by one: versions of Plotly differ, and some would send data to a server.
    modeBarButtons: [["zoom2d", "pan2d", "resetScale2d"]],
    displayModeBar: byTouch ? false : "hover",
    responsive: true,
    showTips: false,
  };

  // On its own, an image needs the legend and a page behind it.
  function save(plot) {
    const legend = { orientation: "h", y: 1.05, yanchor: "bottom" };
    const layout = { ...plot.layout, showlegend: true, legend, paper_bgcolor: "#ffffff" };
    // A name once, however many lines it has.
    const named = new Set();
    const data = plot.data.map((trace) => {
      const showlegend = trace.legendgroup !== undefined && !named.has(trace.legendgroup);
      named.add(trace.legendgroup);
      return { ...trace, showlegend };
    });
    const size = { width: 1000, height: layout.height + 60, scale: 2 };
    Plotly.downloadImage({ data, layout }, { format: "png", filename: plot.dataset.chart, ...size });
  }

  // Plotly is packed: it is more than everything else in the page together.
  async function unpacked(letters) {
    const bytes = Uint8Array.from(atob(letters), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text();
  }

  async function load() {
    const script = document.createElement("script");
    script.textContent = await unpacked(byId("plotly").textContent);
    document.head.append(script);
    const camera = { name: "save", title: "Save as an image", icon: Plotly.Icons.camera, click: save };
    config.modeBarButtons[0].unshift(camera);
    return parsed("charts");
  }

  const keys = [...document.querySelectorAll(".keys button")];

  async function draw(place, { data, layout }) {
    if (byTouch) layout.dragmode = false; // a finger on a chart scrolls the page
    await Plotly.newPlot(place, data, layout, config);
    const own = keys.filter((key) => key.getAttribute("aria-controls") === place.id);
    for (const key of own) key.disabled = false; // until now there was nothing to hide
  }

  // One that cannot be drawn leaves the others alone.
  async function drawCharts() {
    const places = [...document.querySelectorAll(".plot")];
    const loading = places.length > 0 ? load() : undefined;
    let state = "drawn";
    for (const place of places) {
      try {
        const charts = await loading;
        await draw(place, charts[place.dataset.chart]);
      } catch (error) {
        state = "failed";
        place.className = "plot failed"; // without the class by which Plotly's are found on paper
        place.textContent = `This browser cannot draw the chart (${error.message}).`;
      }
    }
    document.documentElement.dataset.charts = state;
  }

  drawCharts();

  for (const key of keys) {
    key.addEventListener("click", () => {
      const visible = key.getAttribute("aria-pressed") !== "true";
      key.setAttribute("aria-pressed", visible);
      const traces = key.dataset.traces.split(",").map(Number);
      Plotly.restyle(key.getAttribute("aria-controls"), { visible }, traces);
    });
  }

  // On paper: everything open, charts as wide as the sheet.

  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")];
    for (const one of closed) one.open = true;
    for (const plot of document.querySelectorAll(".js-plotly-plot")) Plotly.relayout(plot, { width: 680 });
  });
  addEventListener("afterprint", () => {
    for (const one of closed) one.open = false;
    for (const plot of document.querySelectorAll(".js-plotly-plot")) Plotly.relayout(plot, { autosize: true });
  });

  // Pictures

  const pictures = parsed("pictures-data");

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

  // JSON

  byId("download").addEventListener("click", (event) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([byId("report").textContent], { type: "application/json" }));
    link.download = event.currentTarget.dataset.name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
})();
