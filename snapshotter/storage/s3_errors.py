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
class Meaning:
    """What is wrong and what to do. renew: other credentials may be accepted."""

    problem: str
    hint: str | None = None
    renew: bool = False


_CODES = {
    Meaning("the bucket is not there", "create it, or correct the storage URI"): "NoSuchBucket",
    Meaning("the credentials are not accepted", _CREDENTIALS, renew=True): (
        "InvalidAccessKeyId SignatureDoesNotMatch InvalidToken InvalidClientTokenId UnrecognizedClientException"
        " AuthFailure InvalidSecurity"
    ),
    Meaning("the credentials have expired", "renew them: log in anew, or fetch a new token", renew=True): (
        "ExpiredToken ExpiredTokenException TokenRefreshRequired RequestExpired"
    ),
    Meaning(
        "access is denied",
        "allow these credentials s3:GetObject, s3:PutObject, s3:DeleteObject and s3:AbortMultipartUpload on the prefix "
        "and s3:ListBucket on the bucket; without the last one a missing file looks forbidden too",
        renew=True,
    ): "AccessDenied AllAccessDisabled AccountProblem Forbidden 403 401",
    Meaning("the server asks for fewer requests, after all attempts", _SLOWER): (
        "SlowDown ServiceUnavailable Throttling ThrottlingException RequestLimitExceeded TooManyRequests 503 429"
        " SlowDownRead SlowDownWrite XMinioServerNotInitialized"
    ),
    Meaning("the server failed, after all attempts", "run it again; if it goes on, look at the server's log"): (
        "InternalError RequestTimeout 500 502 504"
    ),
    Meaning("the bucket is in another region", "name it in the storage URI: ?region=…"): (
        "PermanentRedirect AuthorizationHeaderMalformed IllegalLocationConstraintException 301"
    ),
    Meaning("this machine's clock is wrong", "set it: S3 refuses requests that are 15 minutes off"): (
        "RequestTimeTooSkewed"
    ),
    Meaning("the store is full", "free some space in it"): (
        "QuotaExceeded XMinioStorageFull InsufficientStorage XMinioAdminBucketQuotaExceeded 507"
    ),
    Meaning("the name is too long", "S3 takes 1024 bytes, the prefix included"): "KeyTooLongError",
}
_MEANINGS = {code: meaning for meaning, codes in _CODES.items() for code in codes.split()}
_RAISED: tuple[tuple[tuple[type[Exception], ...], Meaning], ...] = (
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
        Meaning("no credentials were found", _CREDENTIALS, renew=True),
    ),
    (
        (driver.EndpointConnectionError, driver.ConnectTimeoutError, driver.ProxyConnectionError),
        Meaning("no server answers there", _REACH),
    ),
    ((driver.SSLError,), Meaning("the server's certificate is not trusted", "name its authority in AWS_CA_BUNDLE")),
    ((driver.ReadTimeoutError,), Meaning("the server takes too long, in all attempts", _REACH)),
    (
        (driver.HTTPClientError, driver.IncompleteReadError),
        Meaning("the connection was cut, in all attempts", _REACH),
    ),
)
CUT = (driver.HTTPClientError, driver.IncompleteReadError)


def code_of(error: Exception) -> str:
    """Give the code with which a server refused; of other errors none."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def is_missing(error: Exception) -> bool:
    """Whether the key is not there. An answer without a body, to HEAD, says the same of the bucket."""
    return code_of(error) in ("NoSuchKey", "NoSuchVersion", "404")


def meaning_of(error: ClientError | BotoCoreError) -> Meaning:
    """Say what an error means."""
    if isinstance(error, ClientError):
        code = code_of(error)
        found = _MEANINGS.get(code)
        if found is not None:
            return Meaning(f"{found.problem} ({code})", found.hint, found.renew)
        told = error.response.get("Error", {}).get("Message") or "no reason given"
        return Meaning(f"{told} ({code or error.response.get('ResponseMetadata', {}).get('HTTPStatusCode')})")
    for kinds, meaning in _RAISED:
        if isinstance(error, kinds):
            return meaning
    return Meaning(without_password(f"{type(error).__name__}: {error}"))
