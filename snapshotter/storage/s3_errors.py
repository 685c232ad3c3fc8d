"""The S3 driver's errors: what is wrong, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass

from botocore import exceptions as driver
from botocore.exceptions import BotoCoreError, ClientError

from schemas.redaction import without_password

_CREDENTIALS = "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, the profile (AWS_PROFILE) or the role"
_SLOWER = "let fewer tasks read and write at a time, or run it again later"
_REACH = "check the endpoint in the storage URI, the network and that the server runs"


@dataclass(frozen=True)
class S3Problem:
    """What is wrong and what to do. renew: whether other credentials may be accepted."""

    problem: str
    hint: str | None = None
    renew: bool = False


_CODES = {
    S3Problem("the bucket does not exist", "create it, or correct the storage URI"): "NoSuchBucket",
    S3Problem("the credentials are not accepted", _CREDENTIALS, renew=True): (
        "InvalidAccessKeyId SignatureDoesNotMatch InvalidToken InvalidClientTokenId UnrecognizedClientException"
        " AuthFailure InvalidSecurity"
    ),
    S3Problem("the credentials have expired", "renew them: log in again, or fetch a new token", renew=True): (
        "ExpiredToken ExpiredTokenException TokenRefreshRequired RequestExpired"
    ),
    S3Problem(
        "access is denied",
        "allow these credentials s3:GetObject, s3:PutObject, s3:DeleteObject and s3:AbortMultipartUpload on the prefix "
        "and s3:ListBucket on the bucket; without the last one a missing file looks forbidden too",
        renew=True,
    ): "AccessDenied AllAccessDisabled AccountProblem Forbidden 403 401",
    S3Problem("the server still limits the rate of requests after all attempts", _SLOWER): (
        "SlowDown ServiceUnavailable Throttling ThrottlingException RequestLimitExceeded TooManyRequests 503 429"
        " SlowDownRead SlowDownWrite XMinioServerNotInitialized"
    ),
    S3Problem("the server failed in all attempts", "run it again; if it fails again, see the server's log"): (
        "InternalError RequestTimeout 500 502 504"
    ),
    S3Problem("the bucket is in another region", "set it in the storage URI: ?region=…"): (
        "PermanentRedirect AuthorizationHeaderMalformed IllegalLocationConstraintException 301"
    ),
    S3Problem("this machine's clock is wrong", "set it: S3 refuses requests that are 15 minutes off"): (
        "RequestTimeTooSkewed"
    ),
    S3Problem("the store is full", "free some space in it"): (
        "QuotaExceeded XMinioStorageFull InsufficientStorage XMinioAdminBucketQuotaExceeded 507"
    ),
    S3Problem("the name is too long", "S3 takes 1024 bytes, the prefix included"): "KeyTooLongError",
}
_PROBLEMS = {code: meaning for meaning, codes in _CODES.items() for code in codes.split()}
_DRIVER_PROBLEMS: tuple[tuple[tuple[type[Exception], ...], S3Problem], ...] = (
    (
        (
            driver.NoCredentialsError,
            driver.PartialCredentialsError,
            driver.CredentialRetrievalError,
            driver.ProfileNotFound,
            driver.TokenRetrievalError,
            driver.SSOError,
            driver.MetadataRetrievalError,
        ),
        S3Problem("there are no credentials", _CREDENTIALS, renew=True),
    ),
    (
        (driver.EndpointConnectionError, driver.ConnectTimeoutError, driver.ProxyConnectionError),
        S3Problem("no server answers", _REACH),
    ),
    ((driver.SSLError,), S3Problem("the server's certificate is not trusted", "set AWS_CA_BUNDLE to its authority")),
    ((driver.ReadTimeoutError,), S3Problem("the server took too long in all attempts", _REACH)),
    (
        (driver.HTTPClientError, driver.IncompleteReadError),
        S3Problem("the connection was lost in all attempts", _REACH),
    ),
)
CONNECTION_LOST = (driver.HTTPClientError, driver.IncompleteReadError)


def code_of(error: Exception) -> str:
    """Return the code of a server's error; "" for other errors."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def is_missing(error: Exception) -> bool:
    """Whether the key does not exist. A response without a body, to HEAD, may also mean the bucket."""
    return code_of(error) in ("NoSuchKey", "NoSuchVersion", "404")


def problem_of(error: ClientError | BotoCoreError) -> S3Problem:
    """Return what is wrong, and what to do about it."""
    if isinstance(error, ClientError):
        code = code_of(error)
        known = _PROBLEMS.get(code)
        if known is not None:
            return S3Problem(f"{known.problem} ({code})", known.hint, known.renew)
        message = error.response.get("Error", {}).get("Message") or "no reason given"
        return S3Problem(f"{message} ({code or error.response.get('ResponseMetadata', {}).get('HTTPStatusCode')})")
    for kinds, meaning in _DRIVER_PROBLEMS:
        if isinstance(error, kinds):
            return meaning
    return S3Problem(without_password(f"{type(error).__name__}: {error}"))
