"""Decide which parameters a request to an endpoint has, and go on without a few that the endpoint refuses."""

import json
import logging
from typing import Any

import openai

from montessori.errors import InputError
from montessori.settings.engines import LIMITS, OpenAI
from montessori.settings.generation import Sampling
from montessori.synthesis.engines.connection import error_text, refusal_message

log = logging.getLogger(__name__)
# Values that change nothing by the OpenAI API. They are not sent, since some models refuse them whatever their value.
NEUTRAL = {"temperature": 1, "top_p": 1, "presence_penalty": 0, "frequency_penalty": 0, "repetition_penalty": 1, "n": 1}
# Owners of models on servers that take the default of a missing parameter from the model's files or their own options.
# They accept neutral values and get them.
OWN_SERVERS = ("vllm", "sglang", "llamacpp")
LOGPROBS = ("logprobs", "top_logprobs")


class Parameters:
    """The parameters of an endpoint, and the refused ones among them."""

    def __init__(self, endpoint: OpenAI, field: str, server: str | None):
        """Start with the settings. `server` is the owner of the model, `field` the settings field of `endpoint`."""
        self._endpoint, self._field, self._server = endpoint, field, server
        self._limits = LIMITS[endpoint.limit_parameter]
        self._refused_limits: set[str] = set()
        self._dropped = set(endpoint.omit)

    def of(self, sampling: Sampling) -> dict[str, Any]:
        """Return the parameters of each request besides the prompt, with the limit as `max_tokens`.

        Raises InputError for those that the endpoint does not support.
        """
        parameters: dict[str, Any] = {
            "model": self._endpoint.model,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "presence_penalty": sampling.presence_penalty,
            "frequency_penalty": sampling.frequency_penalty,
            "repetition_penalty": sampling.repetition_penalty,
            "max_tokens": sampling.max_tokens,
        }
        if sampling.stop:
            parameters["stop"] = list(sampling.stop)
        if sampling.top_logprobs:
            parameters |= {"logprobs": True, "top_logprobs": sampling.top_logprobs}
        extra = self._endpoint.extra_body
        for name in extra.keys() & parameters.keys():
            if extra[name] != parameters[name]:
                raise InputError(
                    f"sampling.{name} = {parameters[name]:g}: {self._field}.extra_body has {json.dumps(extra[name])}; "
                    "give the same value, or take it out of extra_body"
                )
        if self._server != "vllm":
            del parameters["repetition_penalty"]
            if sampling.repetition_penalty != 1 and "repetition_penalty" not in {*self._dropped, *extra}:
                raise InputError(
                    f"sampling.repetition_penalty = {sampling.repetition_penalty:g}: the OpenAI API has none "
                    "(only vLLM's server takes it); set it to 1, and presence_penalty or frequency_penalty instead"
                )
        return parameters

    def body(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Return the body of a request, without parameters that are omitted, refused or at a neutral value."""
        neutral = {} if self._server in OWN_SERVERS else NEUTRAL
        body = {name: value for name, value in parameters.items() if neutral.get(name) != value}
        body |= dict.fromkeys(self._limits, body.pop("max_tokens"))
        return {name: value for name, value in body.items() if name not in self._dropped} | self._endpoint.extra_body

    def adapt(self, name: str, parameters: dict[str, Any], error: openai.APIStatusError, *, worked: bool) -> bool:
        """Return whether another request can do without the refused parameter `name`, and remember that.

        Without n there are more requests, and the limit has two names. All others change the texts. `worked` tells that
        the endpoint has taken such parameters before.
        """
        if name in self._endpoint.extra_body:
            return False
        if name not in self.body(parameters):  # another request was refused for it in the meantime
            return True
        if name in (*LOGPROBS, "n"):
            self._dropped |= {*LOGPROBS} if name in LOGPROBS else {name}
        elif name in LIMITS["both"] and not worked:
            self._refused_limits.add(name)
            left = tuple(other for other in LIMITS["both"] if other not in self._refused_limits)
            if not left:
                return False
            self._limits = left
        else:
            return False
        what = "log probabilities" if name in LOGPROBS else name
        log.warning("%s: continuing without %s: %s", self._endpoint.model, what, error_text(self._endpoint, error))
        return True

    def refusal(self, name: str | None, error: openai.APIStatusError) -> str:
        """Return the message of a permanent error about the parameter `name`, with the setting that helps."""
        message = refusal_message(self._endpoint, error, self._field)
        if not name:
            return message
        if name in self._endpoint.extra_body:
            return f"{message}; take {name} out of {self._field}.extra_body"
        if name in LIMITS["both"]:
            return f"{message}; lower max_tokens, or set {self._field}.limit_parameter"
        own = name in NEUTRAL and self._field.startswith("generation.")  # a judge's sampling is no setting
        neutral = f", or set sampling.{name} to {NEUTRAL[name]}" if own else ""
        return f"{message}; add {name} to {self._field}.omit, so that it is not sent{neutral}"

    def ignored_limit(self, size: str) -> str:
        """Return the message about an endpoint that has generated more than the limit."""
        sent = " and ".join(self._limits)
        other = "max_tokens" if self._endpoint.limit_parameter == "both" else "both"
        return (
            f"{self._endpoint.base_url} ignores {sent}: {size}; "
            f"set {self._field}.limit_parameter, for example to {other}"
        )
