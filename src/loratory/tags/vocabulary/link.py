"""Requests to a tagging site: polite, patient with a server in trouble, and clear about what went wrong."""

import email.utils
import http.client
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator
from contextlib import contextmanager
from http import HTTPStatus
from socket import gaierror
from typing import TypeVar

import loratory
from loratory.errors import FAILED, LoratoryError

USER_AGENT = f"loratory/{loratory.__version__} (tag vocabulary download)"
# After a failure 1, 2, 4 and 8 s are waited; what was received meanwhile starts the count again.
_ATTEMPTS = 5
# Whoever asks for more is better asked again another time.
_LONGEST_WAIT_S = 300.0
_TRY_LATER = frozenset((408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524))

_Result = TypeVar("_Result")


class Lost(Exception):
    """A request that may succeed later. wait_s: what the server asked for. gained: something new was received."""

    def __init__(self, why: str, *, wait_s: float | None = None, gained: bool = False) -> None:
        super().__init__(why)
        self.why, self.wait_s, self.gained = why, wait_s, gained


class Link:
    """One server.

    base_url: http or https, without a slash at the end. delay_s: the least time from one `paced` request to the next.
    timeout_s: how long the server may be silent. tell: gets a sentence when something is waited for.
    """

    def __init__(
        self,
        base_url: str,
        *,
        delay_s: float,
        timeout_s: float = 30.0,
        tell: Callable[[str], None],
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if not base_url.startswith(("http://", "https://")):
            raise LoratoryError(f"{base_url} is no address of a web server.", hint="It must start with https://.")
        self.base_url = base_url.rstrip("/")
        self._delay_s, self._timeout_s = delay_s, timeout_s
        self._tell, self._sleep = tell, sleep
        self._latest_s = -delay_s

    def pace(self) -> None:
        """Waits until the next request to the API may be made."""
        left_s = self._latest_s + self._delay_s - time.monotonic()
        if left_s > 0:
            self._sleep(left_s)
        self._latest_s = time.monotonic()

    @contextmanager
    def get(self, url: str, headers: dict[str, str] | None = None) -> Generator[http.client.HTTPResponse]:
        """The answer to a request, also while its body is read.

        Raises `Lost` for what may pass, urllib.error.HTTPError for other refusals, and LoratoryError where there is no
        such server.
        """
        request = urllib.request.Request(url, headers={"User-Agent": USER_AGENT, **(headers or {})})
        try:
            with urllib.request.urlopen(request, timeout=self._timeout_s) as response:
                yield response
        except urllib.error.HTTPError as error:
            error.close()
            if error.code in _TRY_LATER:
                raise Lost(_answered(error), wait_s=_retry_after_s(error.headers.get("Retry-After"))) from error
            raise
        except urllib.error.URLError as error:
            if isinstance(error.reason, gaierror):
                raise unreachable(self.base_url, "its name cannot be found; is this computer online?") from error
            if isinstance(error.reason, ConnectionRefusedError | ssl.SSLCertVerificationError):
                raise unreachable(self.base_url, str(error.reason)) from error
            raise Lost(f"no connection to {self.base_url} ({error.reason})") from error
        except TimeoutError as error:
            raise Lost(f"{self.base_url} was silent for {self._timeout_s:g} s") from error
        except (http.client.HTTPException, ConnectionError) as error:
            raise Lost(f"the connection to {self.base_url} broke ({type(error).__name__})") from error

    def persist(self, attempt: Callable[[], _Result]) -> _Result:
        """What `attempt` returns, tried again while it raises `Lost`. Raises LoratoryError when that leads nowhere."""
        failures = 0
        while True:
            try:
                return attempt()
            except Lost as lost:
                failures = 1 if lost.gained else failures + 1
                wait_s = lost.wait_s if lost.wait_s is not None else float(2 ** (failures - 1))
                if failures == _ATTEMPTS or wait_s > _LONGEST_WAIT_S:
                    asks = f" and asks to wait {wait_s / 60:.0f} min" if wait_s > _LONGEST_WAIT_S else ""
                    raise unreachable(self.base_url, f"{lost.why}{asks}") from lost
                self._tell(f"{lost.why}; trying again in {wait_s:g} s")
                self._sleep(wait_s)
            except urllib.error.HTTPError as error:
                raise unreachable(self.base_url, _answered(error)) from error


def unreachable(base_url: str, why: str) -> LoratoryError:
    """The error for a download that cannot go on."""
    return LoratoryError(
        f"Nothing could be downloaded from {base_url}: {why}.",
        hint="The same command goes on later where this one stopped. Without a connection, bring a list from elsewhere "
        "and import it: `loratory vocab add FILE`.",
        exit_code=FAILED,
    )


def _answered(error: urllib.error.HTTPError) -> str:
    known = error.code in {status.value for status in HTTPStatus}
    return f"it answered {error.code}" + (f" ({HTTPStatus(error.code).phrase})" if known else "")


def _retry_after_s(value: str | None) -> float | None:
    """Seconds to wait, from a header that holds seconds or a date; None where it holds neither."""
    if value is None:
        return None
    try:
        return max(0.0, float(value)) if value.strip().isdecimal() else _until_s(value)
    except (ValueError, OverflowError):
        return None


def _until_s(date: str) -> float:
    return max(0.0, email.utils.parsedate_to_datetime(date).timestamp() - time.time())
