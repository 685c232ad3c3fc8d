from __future__ import annotations

import pytest

from schemas.redaction import is_secret, is_secret_setting, shown_setting, without_password


@pytest.mark.parametrize(
    "name",
    [
        "spark.hadoop.fs.azure.account.key.shop.dfs.core.windows.net",
        "spark.hadoop.fs.azure.account.key.provider.dfs.core.windows.net",
        "fs.azure.account.key.type-a.dfs.core.windows.net",
        "fs.azure.account.oauth2.client.secret.shop.dfs.core.windows.net",
        "fs.azure.sas.container.shop.blob.core.windows.net",
        "fs.azure.sas.fixed.token.shop.dfs.core.windows.net",
        "spark.hadoop.javax.jdo.option.ConnectionPassword",
        "spark.hadoop.fs.s3a.access.key",
        "spark.hadoop.fs.s3a.secret.key",
        "spark.hadoop.fs.s3a.session.token",
        "spark.ssl.keyPassword",
        "spark.ssl.trustStorePassword",
        "spark.authenticate.secret",
        "spark.hadoop.fs.gs.auth.service.account.private.key",
        "AWS_SECRET_ACCESS_KEY",
        "apiKey",
        "sasToken",
    ],
)
def test_secret_settings_are_known_by_their_names(name: str) -> None:
    assert is_secret(name)
    assert shown_setting(name, "HUSH") == "…"


@pytest.mark.parametrize(
    "name",
    [
        "spark.hadoop.fs.s3a.aws.credentials.provider",
        "spark.hadoop.fs.azure.account.auth.type.shop.dfs.core.windows.net",
        "spark.hadoop.fs.azure.account.oauth.provider.type.shop.dfs.core.windows.net",
        "spark.driver.memory",
        "spark.sql.shuffle.partitions",
        "spark.kryoserializer.buffer",
        "spark.ui.enabled",
        "spark.master",
    ],
)
def test_other_settings_are_shown(name: str) -> None:
    assert shown_setting(name, "x") == "x"


@pytest.mark.parametrize(
    "value",
    [
        "jdbc:mysql://me:HUSH@db/metastore",
        "-Djavax.net.ssl.trustStorePassword=HUSH -Xmx1g",
        "https://shop.blob.core.windows.net/x?sp=r&sig=HUSH",
        "http://me:HU/SH@proxy:3128",
    ],
)
def test_a_password_in_a_value_is_hidden_and_makes_the_setting_secret(value: str) -> None:
    assert "HUSH" not in without_password(value).replace("/", "")
    assert is_secret_setting("spark.anything", value)
