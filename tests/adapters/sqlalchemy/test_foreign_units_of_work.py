"""The inbox refuses what is not its database's, and names that no column takes."""

from pathlib import Path

import pytest

from mediator.errors import SettingError, UnitOfWorkMismatchError
from tests.conformance.storages import in_database


async def test_a_consumer_has_a_name_that_fits(tmp_path: Path, postgres_url: str):
    for url in (f"sqlite:///{tmp_path}/names.db", postgres_url):
        async with in_database(url) as storage:
            for consumer in ("x" * 65, "a\0b"):
                with pytest.raises(SettingError, match="consumer"):
                    await storage.inbox.start(consumer, "shop", "1", 8)


async def test_the_inbox_of_another_file_is_refused_before_anything_is_recorded(tmp_path: Path):
    async with in_database(f"sqlite:///{tmp_path}/a.db") as one, in_database(f"sqlite:///{tmp_path}/b.db") as other:
        with pytest.raises(UnitOfWorkMismatchError):
            async with one.transaction() as unit_of_work:
                await other.inbox.insert(unit_of_work, "advising", "shop", "1")
        assert not await one.inbox.contains("advising", "shop", "1")
        assert not await other.inbox.contains("advising", "shop", "1")
