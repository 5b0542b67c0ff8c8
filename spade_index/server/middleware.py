"""The ASGI middleware around everything: known hosts, limited bodies, errors as problem details, the log."""

from starlette.types import ASGIApp, Receive, Scope, Send

from .bodies import Body, HeldBodies
from .exchange import Exchange
from .hosts import require_known_expectation, require_known_host
from .logs import log, note_request
from .metrics import Metrics
from .problems import ClientGone, as_problem, problem_response
from .settings import ServeSettings

GONE = 499  # status in the log if the client disconnected


class Limits:
    """Serves requests within the limits of the settings."""

    def __init__(self, app: ASGIApp, settings: ServeSettings, metrics: Metrics, root: str) -> None:
        self._app = app
        self._settings = settings
        self._metrics = metrics
        self._root = root
        self.bodies = HeldBodies(settings, metrics)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = Exchange(scope, send)
        try:
            require_known_host(exchange.method, exchange.headers, self._settings)
            exchange.require_plain_target()
            require_known_expectation(exchange.headers)
            body = Body(exchange, receive, self._settings, self.bodies)
            try:
                await self._app(exchange.scope, body.receive, exchange.send)
            finally:
                self.bodies.release(body.held)
        except ClientGone:
            exchange.status = GONE
        except Exception as error:  # that the application has no handler for
            problem = as_problem(error, self._root)
            if problem.status_code == 500:
                log.exception("request %s failed", exchange.id)
            if not exchange.answering:
                answer = problem_response(problem, scope["path"], exchange.id)
                await answer(scope, receive, exchange.send)
        finally:
            note_request(exchange, self._metrics)
