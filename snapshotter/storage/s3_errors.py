"""What the S3 driver's errors mean, and what to do about each."""

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
    """What is wrong and what to do. renew: other credentials may be accepted."""

    problem: str
    hint: str | None = None
    renew: bool = False


_CODES = {
    S3Problem("the bucket is not there", "create it, or correct the storage URI"): "NoSuchBucket",
    S3Problem("the credentials are not accepted", _CREDENTIALS, renew=True): (
        "InvalidAccessKeyId SignatureDoesNotMatch InvalidToken InvalidClientTokenId UnrecognizedClientException"
        " AuthFailure InvalidSecurity"
    ),
    S3Problem("the credentials have expired", "renew them: log in anew, or fetch a new token", renew=True): (
        "ExpiredToken ExpiredTokenException TokenRefreshRequired RequestExpired"
    ),
    S3Problem(
        "access is denied",
        "allow these credentials s3:GetObject, s3:PutObject, s3:DeleteObject and s3:AbortMultipartUpload on the prefix "
        "and s3:ListBucket on the bucket; without the last one a missing file looks forbidden too",
        renew=True,
    ): "AccessDenied AllAccessDisabled AccountProblem Forbidden 403 401",
    S3Problem("the server asks for fewer requests, after all attempts", _SLOWER): (
        "SlowDown ServiceUnavailable Throttling ThrottlingException RequestLimitExceeded TooManyRequests 503 429"
        " SlowDownRead SlowDownWrite XMinioServerNotInitialized"
    ),
    S3Problem("the server failed, after all attempts", "run it again; if it goes on, look at the server's log"): (
        "InternalError RequestTimeout 500 502 504"
    ),
    S3Problem("the bucket is in another region", "name it in the storage URI: ?region=…"): (
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
_RAISED: tuple[tuple[tuple[type[Exception], ...], S3Problem], ...] = (
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
        S3Problem("no credentials were found", _CREDENTIALS, renew=True),
    ),
    (
        (driver.EndpointConnectionError, driver.ConnectTimeoutError, driver.ProxyConnectionError),
        S3Problem("no server answers there", _REACH),
    ),
    ((driver.SSLError,), S3Problem("the server's certificate is not trusted", "name its authority in AWS_CA_BUNDLE")),
    ((driver.ReadTimeoutError,), S3Problem("the server takes too long, in all attempts", _REACH)),
    (
        (driver.HTTPClientError, driver.IncompleteReadError),
        S3Problem("the connection was cut, in all attempts", _REACH),
    ),
)
CUT = (driver.HTTPClientError, driver.IncompleteReadError)


def code_of(error: Exception) -> str:
    """Give the code with which a server refused; of other errors none."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def is_missing(error: Exception) -> bool:
    """Whether the key is not there. An answer without a body, to HEAD, says the same of the bucket."""
    return code_of(error) in ("NoSuchKey", "NoSuchVersion", "404")


def problem_of(error: ClientError | BotoCoreError) -> S3Problem:
    """Say what an error means."""
    if isinstance(error, ClientError):
        code = code_of(error)
        found = _PROBLEMS.get(code)
        if found is not None:
            return S3Problem(f"{found.problem} ({code})", found.hint, found.renew)
        told = error.response.get("Error", {}).get("Message") or "no reason given"
        return S3Problem(f"{told} ({code or error.response.get('ResponseMetadata', {}).get('HTTPStatusCode')})")
    for kinds, meaning in _RAISED:
        if isinstance(error, kinds):
            return meaning
    return S3Problem(without_password(f"{type(error).__name__}: {error}"))
