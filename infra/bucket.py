"""The bucket of SFT_ARTIFACTS, looked at before servers start that would fail with the first artifact only."""

from __future__ import annotations

from importlib.util import find_spec
from urllib.parse import urlsplit

from infra.settings import bucket_endpoint
from sft_core.errors import OrchestrationError

MAY_BE_HIDDEN = 403
"""What a bucket answers whose keys may read and write in it, and not look at it."""


def check_bucket(place: str) -> None:
    """Look whether there is a bucket, with the keys and the server of this environment, as boto3 and MLflow find them.

    Raises:
        OrchestrationError: boto3 is missing, it has no keys, or the bucket is not there.
    """
    if find_spec("boto3") is None:
        raise OrchestrationError("SFT_ARTIFACTS names a bucket, which needs the package boto3; install it with "
                                 "`pip install 'sft-platform[s3]'`, or name a folder")
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        quick = Config(connect_timeout=5, read_timeout=10, retries={"total_max_attempts": 2})
        client = boto3.Session().client("s3", endpoint_url=bucket_endpoint(), config=quick)
        client.head_bucket(Bucket=urlsplit(place).netloc)
    except (BotoCoreError, ClientError, ValueError) as error:
        said = getattr(error, "response", {}).get("ResponseMetadata", {}).get("HTTPStatusCode")
        if said != MAY_BE_HIDDEN:
            raise OrchestrationError(
                f"the bucket {place} (SFT_ARTIFACTS) cannot be used: {error}; `sft up` needs its keys in the "
                "environment of each start (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or as boto3 has them; "
                "MLFLOW_S3_ENDPOINT_URL where it is not Amazon's), and keeps none") from error
