"""The API server's part: starts with a check of every process, then names, routes and admission."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field

from harness.errors import InputError
from harness.modelinfo import from_config, weights_digest
from harness.spec import HOOK_POINTS, MAX_TERMS, PROTOCOL, SCALE_MODES, SELECTORS, SpecError
from harness.vectors import vector_folders
from servers.steering import admission_guard
from servers.steering.admission import STEERED_PATHS, Admission
from servers.steering.config import SteeringConfig
from servers.steering.limits import MAX_NORM, MAX_RELATIVE, Limits
from servers.steering.loras import CheckedLoras
from servers.steering.middleware import SteeringMiddleware, error_body, shown_model
from servers.steering.registry import Registry
from servers.steering.resolved import EXTRA_ARG, ResolvedSpec
from servers.steering.selfcheck import self_check
from servers.steering.status import METHOD as CORE_STATUS
from servers.steering.support import TESTED, UnsupportedError, plugin_digest

Text = Annotated[str, Field(max_length=4096)]


class LoadSteeringVectorRequest(BaseModel):
    """The body of ``POST /v1/load_steering_vector``, like the LoRA route's."""

    vector_name: Text
    vector_path: Text
    load_inplace: bool = False


class UnloadSteeringVectorRequest(BaseModel):
    """The body of ``POST /v1/unload_steering_vector``."""

    vector_name: Text


class SteeringServer:
    """Everything that the endpoint plugin adds to an app."""

    def __init__(self) -> None:
        self._admission: Admission | None = None
        self._loras: CheckedLoras | None = None
        self._workers: list[dict[str, Any]] = []

    @property
    def admission(self) -> Admission:
        """The rules; there are none before the engine is up, and no request either."""
        if self._admission is None:
            raise RuntimeError("steering: a request came before the start was through")
        return self._admission

    def attach(self, app: Any) -> None:
        """Add the middleware (inside authentication, which is added later) and the routes."""
        app.add_middleware(SteeringMiddleware, admission=lambda: self.admission)
        router = APIRouter()
        router.post("/v1/load_steering_vector")(self.load_vector)
        router.post("/v1/unload_steering_vector")(self.unload_vector)
        router.get("/v1/steering_vectors")(self.list_vectors)
        router.get("/v1/steering")(self.capability)
        app.include_router(router)

    async def start(self, engine_client: Any, state: Any, args: Any) -> None:
        """Check all processes, read the folders, and take over vLLM's model list.

        Raises:
            UnsupportedError: a process without the plugin, or with another one.
            InputError: a vector folder that can't be served.

        """
        vllm_config = engine_client.vllm_config
        config = SteeringConfig.read(vllm_config.additional_config)
        if config is None:
            raise UnsupportedError(
                "steering: --additional-config lacks 'steering'; build it with launch_args()."
            )
        if (getattr(args, "api_server_count", 1) or 1) > 1:
            raise UnsupportedError(
                "steering: not with --api-server-count above 1; names live in one process."
            )
        self._workers = await _check_processes(engine_client)
        worker = self._workers[0]
        model_config = vllm_config.model_config
        folder = Path(model_config.model)
        names = tuple(path.name for path in state.openai_serving_models.base_model_paths)
        model = from_config(model_config.hf_config.to_dict(), config.model_name or Path(names[0]).name)
        if model.hidden_size != worker["hidden_size"] or model.layers != worker["layers"]:
            raise UnsupportedError(
                f"steering: hooked {worker['layers']} layers, the config says {model.layers}."
            )

        async def send(method: str, args: tuple[object, ...]) -> object:
            return await engine_client.collective_rpc(method, args=args)

        vector_dirs = [Path(d) for d in config.vector_dirs]
        adapter_dirs = tuple(Path(d) for d in config.adapter_dirs)
        registry = Registry(model, weights_digest(folder), (*vector_dirs, *adapter_dirs), send)
        models = state.openai_serving_models
        self._loras = CheckedLoras(models, registry, vllm_config.lora_config, adapter_dirs)
        for name, path in vector_folders(vector_dirs).items():
            await registry.load(name, path, replace=False)
        if config.allow_untested:
            await self_check(engine_client, model.layers, model.hidden_size, worker["dtype"])
        limits = Limits(model.layers, worker["dtype"], config.classes, config.rows, config.lanes)
        self._admission = Admission(registry, limits, names, _bos_id(engine_client))
        admission_guard.checks.append(self._guard)
        self._take_over(state, models)

    def _take_over(self, state: Any, models: Any) -> None:
        show, name_of = models.show_available_models, models.model_name

        async def show_available_models() -> Any:
            listed = await show()
            served = set(self.admission.registry.adapters.values())
            cards = [card for card in listed.data if card.id not in served]
            cards += [cards[0].model_copy(update=update) for update in self._cards(cards[0].id)]
            listed.data = cards
            return listed

        def model_name(lora_request: Any = None) -> str:
            return shown_model.get() or str(name_of(lora_request))

        models.show_available_models, models.model_name = show_available_models, model_name
        for attribute, method in (
            ("openai_serving_completion", "render_completion_request"),
            ("openai_serving_chat", "render_chat_request"),
        ):
            handler = getattr(state, attribute, None)
            if handler is not None:
                setattr(handler, method, self._checked_render(getattr(handler, method), handler))

    def _cards(self, parent: str) -> list[dict[str, Any]]:
        assert self._loras is not None
        registry = self.admission.registry
        roots: dict[str, str] = dict(self._loras.roots)
        roots |= {name: str(path) for name, path in registry.paths.items()}
        return [
            {
                "id": name,
                "root": root,
                "parent": parent,
                "max_model_len": None,
                "content_name": registry.content_name(name),
            }
            for name, root in roots.items()
        ]

    def _checked_render(self, render: Callable[..., Any], handler: Any) -> Callable[..., Any]:
        """Check the tokenized prompts before a stream opens: only here their lengths are known."""

        async def checked(request: Any) -> Any:
            result = await render(request)
            wire = (request.vllm_xargs or {}).get(EXTRA_ARG)
            if wire is None or hasattr(result, "error"):
                return result
            inputs = result[1] if isinstance(result, tuple) else result
            spec = ResolvedSpec.from_json(wire)
            for prompt in inputs:
                try:
                    self._check_prompt(spec, prompt.get("prompt_token_ids"))
                except SpecError as e:
                    return handler.create_error_response(str(e))
            return result

        return checked

    def _check_prompt(self, spec: ResolvedSpec, prompt: list[int] | None) -> None:
        if not prompt:
            raise SpecError("Steering needs a prompt of tokens.")
        self.admission.limits.check_prompt(spec, prompt, self.admission.registry.lookup)

    def _guard(self, spec: ResolvedSpec, request: Any) -> None:
        unknown = [d for d in spec.digests if not self.admission.registry.knows(d)]
        if unknown:
            raise ValueError(f"Steering vector {unknown[0][:12]} is not loaded.")
        self.admission.limits.check_places(spec)
        self._check_prompt(spec, request.prompt_token_ids)

    async def load_vector(self, request: LoadSteeringVectorRequest) -> Response:
        """Load a vector folder under a name."""
        name = request.vector_name
        try:
            await self.admission.registry.load(name, Path(request.vector_path), request.load_inplace)
        except InputError as e:
            return JSONResponse(error_body(str(e), 400), 400)
        return Response(f"Success: Steering vector '{name}' added successfully.")

    async def unload_vector(self, request: UnloadSteeringVectorRequest) -> Response:
        """Forget a vector's name."""
        name = request.vector_name
        try:
            await self.admission.registry.unload(name)
        except KeyError:
            return JSONResponse(error_body(f"The steering vector '{name[:60]}' cannot be found.", 404), 404)
        return Response(f"Success: Steering vector '{name}' removed successfully.")

    async def list_vectors(self) -> dict[str, Any]:
        """List what is loaded, with content and defaults."""
        registry = self.admission.registry
        data = [
            {
                "id": name,
                "object": "steering_vector",
                "digest": vector.digest,
                "root": str(registry.paths[name]),
                "parent": self.admission.base_names[0],
                "layer": vector.config.layer,
                "hook_point": vector.config.hook_point,
                "selector": vector.config.selector,
                "scale": vector.config.scale,
                "scale_mode": vector.config.scale_mode,
                "norm": vector.norm,
                "hidden_size": int(vector.values.size),
            }
            for name, vector in sorted(registry.vectors.items())
        ]
        return {"object": "list", "data": data}

    async def capability(self) -> dict[str, Any]:
        """Say what this server can do, so that a client needn't guess."""
        worker, limits = self._workers[0], self.admission.limits
        return {
            "object": "steering",
            "protocol": PROTOCOL,
            "plugin": worker["plugin"],
            "vllm": worker["version"],
            "runner": worker["runner"],
            "device": worker["device"],
            "dtype": worker["dtype"],
            "workers": len(self._workers),
            "tested": [str(tested) for tested in TESTED],
            "model": self.admission.base_names[0],
            "bos_token_id": self.admission.bos_id,
            "layers": limits.layers,
            "hidden_size": worker["hidden_size"],
            "hook_points": list(HOOK_POINTS),
            "scale_modes": list(SCALE_MODES),
            "selectors": list(SELECTORS),
            "paths": list(STEERED_PATHS),
            "limits": {
                "terms": MAX_TERMS,
                "classes": limits.classes,
                "rows": limits.rows,
                "lanes": limits.lanes,
                "absolute_norm": MAX_NORM,
                "relative_scale": MAX_RELATIVE,
            },
            "buffer_bytes": worker["bytes"],
        }


async def _check_processes(engine_client: Any) -> list[dict[str, Any]]:
    """Ask the engine core and every worker what they run; all must be this plugin."""
    own = plugin_digest()
    try:
        core = await engine_client.engine_core.call_utility_async(CORE_STATUS)
        workers: list[dict[str, Any]] = await engine_client.collective_rpc("steering_status")
    except Exception as e:
        raise UnsupportedError(
            "steering: a process of the engine has no plugin. Start the server with launch_args(): VLLM_PLUGINS, "
            "--worker-extension-cls and --additional-config belong together."
        ) from e
    if not core["keys"]:
        raise UnsupportedError("steering: the engine core makes no steering keys for the prefix cache.")
    if not workers:
        raise UnsupportedError("steering: no worker answered.")
    if different := [s for s in (core, *workers) if s["plugin"] != own]:
        raise UnsupportedError(f"steering: process {different[0]['pid']} runs another version of the plugin.")
    return workers


def _bos_id(engine_client: Any) -> int | None:
    """Return the token that a tokenizer puts first, from the tokenizer, else from the model's config."""
    tokenizer = getattr(getattr(engine_client, "renderer", None), "tokenizer", None)
    value = getattr(tokenizer, "bos_token_id", None)
    if value is None:
        value = getattr(engine_client.vllm_config.model_config.hf_text_config, "bos_token_id", None)
    return value if isinstance(value, int) else None
