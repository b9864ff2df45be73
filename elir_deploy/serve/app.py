"""The service: images in, images out, over HTTP."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from importlib import resources
from typing import Any, TypeVar
from urllib.parse import quote

import anyio
import numpy as np
from anyio import CapacityLimiter
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from elir_deploy import __version__
from elir_deploy.errors import (
    DeviceLostError,
    ElirError,
    MissingDependencyError,
    UnavailableError,
    UsageError,
)
from elir_deploy.runtime.file_restorer import (
    FileRestorer,
    RestoredImage,
    image_warnings,
    load_for,
)
from elir_deploy.runtime.files import check_bits
from elir_deploy.runtime.images import (
    OUTPUT_FORMATS,
    LoadedImage,
    check_fits,
    decode_image,
    encode_image,
    enlarge_alpha,
)
from elir_deploy.serve import v2
from elir_deploy.serve.dispatcher import Dispatcher, Overloaded
from elir_deploy.serve.limits import Limits, Uploads, check_sender
from elir_deploy.serve.metrics import CONTENT_TYPE, Metrics
from elir_deploy.serve.models import Model
from elir_deploy.serve.parameters import RestoreParameters, v2_parameters

__all__ = ["Service"]

T = TypeVar("T")

#: Images that are decoded or encoded at the same time.
_CODECS = 4
#: Characters of faces in a header.
_HEADER = 6000


class Service:
    """The ASGI application, and the models behind it.

    Args:
        models: by name; the first is the default.
        waiting: images that may wait for each model.
        limits: of requests.
        token: that requests must carry; None: none, for services on loopback.
    """

    def __init__(
        self, models: Mapping[str, Model], waiting: int, limits: Limits, token: str | None
    ) -> None:
        self._models = models
        self._limits = limits
        self._token = token
        self._uploads = Uploads(limits)
        self._metrics = Metrics()
        self._lost: str | None = None  # why no further image can be restored
        self._dispatchers = {}
        for name, model in models.items():
            observe = self._metrics.of_runs(name)
            dispatcher = Dispatcher(model.concurrency, waiting, observe)
            self._dispatchers[name] = dispatcher
            self._metrics.watch(name, functools.partial(getattr, dispatcher, "waiting"))
        v2_models = ("/v2/models/{name}", "/v2/models/{name}/versions/1")
        self.app = Starlette(
            routes=[
                Route("/", self._page),
                Route("/health", self._health),
                Route("/v2/health/live", self._health),
                Route("/v2/health/ready", self._health),
                self._route("/metrics", self._show_metrics),
                self._route("/models", self._list_models),
                self._route("/restore", self._restore, "POST"),
                self._route("/v2", self._v2_server),
                *(self._route(path, self._v2_model) for path in v2_models),
                *(self._route(f"{path}/ready", self._v2_ready) for path in v2_models),
                *(self._route(f"{path}/infer", self._infer, "POST") for path in v2_models),
            ],
            exception_handlers={HTTPException: self._refuse},
        )

    def close(self) -> None:
        """Finish what was accepted."""
        for dispatcher in self._dispatchers.values():
            dispatcher.close()

    # Answers ----------------------------------------------------------------------------------

    async def _page(self, request: Request) -> Response:
        page = resources.files("elir_deploy.serve").joinpath("page.html").read_text("utf-8")
        # Nothing but what is in the page, and images that it makes itself.
        policy = (
            "default-src 'none'; img-src blob: data:; style-src 'unsafe-inline'; "
            "script-src 'unsafe-inline'; connect-src 'self'; form-action 'none'; "
            "frame-ancestors 'none'; base-uri 'none'"
        )
        return HTMLResponse(page, headers={"Content-Security-Policy": policy})

    async def _health(self, request: Request) -> Response:
        if self._lost is not None:
            return JSONResponse({"status": "failed", "error": self._lost}, 503)
        return JSONResponse({"status": "ok"})

    async def _show_metrics(self, request: Request) -> Response:
        return Response(self._metrics.text(), media_type=CONTENT_TYPE)

    async def _list_models(self, request: Request) -> Response:
        return JSONResponse(
            {
                "models": [
                    {
                        "name": name,
                        "runs": str(model),
                        "faces": model.has_faces,
                        "upscale": model.bundle.manifest.model.upscale,
                        "random": model.bundle.manifest.source.random,
                    }
                    for name, model in self._models.items()
                ]
            }
        )

    async def _restore(self, request: Request) -> Response:
        if request.headers.get("content-type", "").startswith("multipart/"):
            raise HTTPException(415, "send the image itself: curl --data-binary @photo.jpg")
        default_model = next(iter(self._models))
        choices = RestoreParameters.of(request.query_params.multi_items(), default_model)
        model, dispatcher = self._model(choices.model)
        restorer = model.restorer(choices.faces, choices.scale, choices.run)
        dispatcher.check()
        async with self._uploads.read(request) as body:
            with dispatcher.places() as futures:
                suffix = choices.suffix(body)
                check_bits(
                    choices.bits, [suffix], restorer.bits, restorer.instead_of_8_bits, "bits"
                )
                image = await self._decoded(model.name, restorer, body, choices.bits)
                _check_result(image, restorer.scale, suffix, choices.quality, self._limits.pixels)
                del body
                futures += dispatcher.submit(restorer, [image], choices.strength)
                [restored] = await self._finished(request, futures)
                data = await self._encoded(model.name, image, restored, suffix, choices.quality)
        headers = {"Elir-Model": quote(model.name)}
        if restored.faces is not None:
            headers["Elir-Faces"] = _faces_header(restored.faces)
        warnings = [
            *image_warnings(restorer, image, choices.bits),
            *filter(None, [restored.warning]),
        ]
        if warnings:
            headers["Elir-Warning"] = "; ".join(warnings).encode("ascii", "replace").decode()
        kind = OUTPUT_FORMATS[suffix].name.lower()
        return Response(data, headers=headers, media_type=f"image/{kind}")

    async def _v2_server(self, request: Request) -> Response:
        extensions = ["binary_tensor_data"]
        return JSONResponse(
            {"name": "elir-serve", "version": __version__, "extensions": extensions}
        )

    async def _v2_model(self, request: Request) -> Response:
        model, _ = self._model(request.path_params["name"])
        return JSONResponse(v2.metadata(model.name))

    async def _v2_ready(self, request: Request) -> Response:
        model, _ = self._model(request.path_params["name"])
        return JSONResponse({"name": model.name, "ready": True})

    async def _infer(self, request: Request) -> Response:
        model, dispatcher = self._model(request.path_params["name"])
        dispatcher.check()
        async with self._uploads.read(request) as body:
            length = request.headers.get("inference-header-content-length")
            scale, pixels = model.whole().scale, self._limits.pixels
            parsed = await self._in_thread(v2.parse_request, body, length, pixels, scale)
            strength, run = v2_parameters(parsed.parameters)
            whole = model.whole(run)
            images = [LoadedImage(image) for image in parsed.images]
            with dispatcher.places(len(images)) as futures:
                futures += dispatcher.submit(whole, images, strength)
                results = await self._finished(request, futures)
                restored = np.stack([result.pixels for result in results])
                encode = functools.partial(v2.encode_response, model.name, parsed, restored)
                data, headers = await self._in_thread(encode)
        return Response(data, headers=headers)

    # Steps ------------------------------------------------------------------------------------

    def _model(self, name: str) -> tuple[Model, Dispatcher]:
        if name not in self._models:
            raise HTTPException(404, f"no model of this name, only {', '.join(self._models)}")
        if self._lost is not None:
            raise UnavailableError(self._lost)
        return self._models[name], self._dispatchers[name]

    async def _decoded(
        self, model: str, restorer: FileRestorer, body: bytes, bits: int | None
    ) -> LoadedImage:
        def decode() -> LoadedImage:
            with self._metrics.stage(model, "decode"):
                return load_for(
                    restorer,
                    bits,
                    lambda deep: decode_image(
                        body, name="the body", max_pixels=self._limits.pixels, deep=deep
                    ),
                )

        return await self._in_thread(decode)

    async def _encoded(
        self, model: str, image: LoadedImage, restored: RestoredImage, suffix: str, quality: Any
    ) -> bytes:
        def encode() -> bytes:
            alpha = image.alpha
            if alpha is not None:
                alpha = enlarge_alpha(alpha, restored.pixels.shape[0] // alpha.shape[0])
            with self._metrics.stage(model, "encode"):
                return encode_image(
                    restored.pixels,
                    suffix,
                    alpha=alpha,
                    icc_profile=image.result_profile,
                    metadata=image.metadata,
                    grey=image.grey,
                    quality=quality,
                )

        return await self._in_thread(encode)

    async def _in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        return await anyio.to_thread.run_sync(function, *arguments, limiter=_codecs())

    async def _finished(
        self, request: Request, futures: list[Future[RestoredImage]]
    ) -> list[RestoredImage]:
        """The results, unless they take too long, one fails, or the caller leaves."""
        wrapped = [asyncio.wrap_future(future) for future in futures]
        results = asyncio.ensure_future(_all(wrapped))
        gone: asyncio.Future[None] = asyncio.ensure_future(_gone(request))
        waiting: set[asyncio.Future[Any]] = {results, gone}
        try:
            await asyncio.wait(
                waiting,
                timeout=self._limits.request_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if results.done():
                return list(results.result())
            if gone.done():
                raise HTTPException(499, "the caller has gone")
            raise HTTPException(504, f"it took longer than {self._limits.request_s:g} s")
        finally:
            gone.cancel()
            results.cancel()
            for future in wrapped:  # the others, if one failed
                future.cancel()

    # Errors -----------------------------------------------------------------------------------

    def _route(self, path: str, answer: Callable[[Request], Any], method: str = "GET") -> Route:
        """An answer to those who may ask, with errors as statuses; counted by its pattern."""

        async def guarded(request: Request) -> Response:
            try:
                check_sender(request, self._token)
                response: Response = await answer(request)
            except HTTPException as error:
                response = self._refuse(request, error)
            except Exception as error:  # noqa: BLE001  # the server goes on
                response = self._failure(error)
            if response.status_code not in (200, 408):
                await self._uploads.discard(request)
            self._metrics.request(path, response.status_code)
            return response

        return Route(path, guarded, methods=[method])

    def _refuse(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)

    def _failure(self, error: Exception) -> Response:
        headers = {}
        if isinstance(error, Overloaded):
            headers["Retry-After"] = str(round(error.retry_after_s))
        if isinstance(error, DeviceLostError):
            self._lost = str(error)
        if isinstance(error, MemoryError):
            return JSONResponse({"error": "not enough memory for this image"}, 413)
        if isinstance(error, MissingDependencyError):  # of an image's format
            return JSONResponse({"error": str(error)}, 415)
        if isinstance(error, UnavailableError):
            return JSONResponse({"error": str(error)}, 503, headers)
        if isinstance(error, ElirError):
            return JSONResponse({"error": str(error)}, 400)
        logging.getLogger("uvicorn.error").error("a request failed", exc_info=error)
        return JSONResponse({"error": f"unexpected {type(error).__name__}"}, 500)


@functools.cache
def _codecs() -> CapacityLimiter:
    return CapacityLimiter(_CODECS)


async def _all(futures: Sequence[asyncio.Future[T]]) -> list[T]:
    """The results. As a task, since a cancelled ``gather`` alone is logged."""
    return await asyncio.gather(*futures)


async def _gone(request: Request) -> None:
    """Returns when the caller closes the connection; its body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _check_result(image: LoadedImage, scale: int, suffix: str, quality: Any, pixels: int) -> None:
    """Check that the result is not too large and can be encoded, before the model runs."""
    height, width = (side * scale for side in image.pixels.shape[:2])
    if height * width > pixels:
        raise UsageError(
            f"the result would have {height * width} pixels, expected at most {pixels}: send a "
            "smaller image"
        )
    check_fits(
        *("the result", height, width),
        alpha=image.alpha,
        icc_profile=image.result_profile,
        metadata=image.metadata,
        format=suffix,
        bits=8 * image.pixels.itemsize,
    )
    OUTPUT_FORMATS[suffix].options(quality)


def _faces_header(faces: Sequence[Mapping[str, Any]]) -> str:
    """As JSON; of many faces, as many as headers have room for."""
    shown = [json.dumps(face, separators=(",", ":")) for face in faces]
    while sum(map(len, shown)) > _HEADER:
        shown.pop()
    return f"[{','.join(shown)}]"
