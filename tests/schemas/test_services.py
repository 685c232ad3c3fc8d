from __future__ import annotations

import json

import pytest

from schemas.data_keys import context_variable, item, service_element
from schemas.errors import ConfigError, DataKeyError
from schemas.services import Service

LIST = service_element("my_list", "list<int64>")
PROFILE = context_variable("profile_id", "int64")


def test_a_service_goes_through_json_unchanged() -> None:
    service = Service("lists", LIST, (PROFILE, context_variable("country", "string")))
    assert Service.from_json(json.loads(json.dumps(service.to_json()))) == service


def test_a_service_answers_with_a_service_element() -> None:
    with pytest.raises(ConfigError, match="service 'lists': its element is a context"):
        Service("lists", PROFILE, (PROFILE,))


def test_a_service_depends_on_context_variables() -> None:
    for key in ((), (item("video_id", "int64"),), (PROFILE, LIST)):
        with pytest.raises(ConfigError, match="service 'lists' needs a key of context variables → write key ="):
            Service("lists", LIST, key)


def test_a_key_names_a_variable_once() -> None:
    with pytest.raises(DataKeyError, match="'profile_id' is declared twice"):
        Service("lists", LIST, (PROFILE, context_variable("profile_id", "string")))
