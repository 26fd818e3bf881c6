"""What the output knows of a job: whose plan it holds, which units are done, the manifest."""

from __future__ import annotations

import json
from dataclasses import replace

from pipelines.append import Held
from pipelines.budget import job_exceeds, show_budget
from pipelines.choose import Choice
from pipelines.options import Options
from pipelines.plan import Plan
from pipelines.tokenizer import Tokenizer
from pipelines.write import PLACES_SHOWN
from shards.commit import Description, publish, write_tables
from shards.errors import MissingObject, StokerError
from shards.format import token_dtype
from shards.ledger import Ledger, ListedShards
from shards.manifest import PLAN_KEY, DocumentRules, EndToken, TokenizerInfo
from shards.receipt import Receipt
from shards.store import open_store


def tokenizer_info(tokenizer: Tokenizer, special_tokens: str) -> TokenizerInfo:
    """What the manifest says of the tokenizer and how it is used."""
    return TokenizerInfo(
        name=tokenizer.name,
        fingerprint=tokenizer.fingerprint,
        vocab_size=tokenizer.largest_id + 1,
        end_token=_token(tokenizer.end_id, tokenizer.end_text),
        begin_token=_token(tokenizer.begin_id, tokenizer.begin_text),
        added_tokens={str(token["id"]): token["content"] for token in tokenizer.added_tokens},
        special_tokens=special_tokens,  # type: ignore[arg-type]
    )


class Record:
    """A job's output, from the first look at it to its commit.

    Attributes:
        held: what the output held when the job began.
        ledger: the receipts of the units that are done.
        skipped: how many of those earlier runs had done.
        choice, counts, totals: the engine and what the dataset holds; known once it is there.
    """

    def __init__(
        self, options: Options, plan: Plan, tokenizer: Tokenizer, held: Held | None = None
    ) -> None:
        self.options, self.plan, self.tokenizer = options, plan, tokenizer
        self.store = open_store(options.output)
        self.held = held if held is not None else Held.at(options.output)
        self.ledger = Ledger(self.store, plan.id)
        self.skipped = 0
        # Units that ended for bad rows, with the first of them; whether others are waited for.
        self._stopped: dict[int, tuple[str, ...]] = {}
        self._settling = False

    def is_finished(self) -> bool:
        """Whether the output is this job's dataset already, no shard of it missing.

        Raises:
            StokerError: it holds, or was going to hold, another plan's, and may not be overwritten.
        """
        manifest = self.held.manifest
        continued = self.options.append and manifest is not None and not self.plan.inputs
        if manifest is not None and (continued or manifest.plans == (self.plan.id,)):
            self.choice = Choice(manifest.engine, manifest.engine_reason)
            self.counts, self.totals = manifest.counts, manifest.totals
            missing = self.held.missing_shards()
            if missing and continued:
                raise StokerError(
                    f"{self.store.uri} holds every input, but of its shards {len(missing):,} are "
                    f"missing or cut short, {missing[0]} for one: restore them, or tokenize "
                    "everything anew with --overwrite"
                )
            if continued:
                self.plan = replace(self.plan, id=manifest.plans[-1])
            return not missing
        if not self.options.overwrite:
            self._refuse_another()
        return False

    def _refuse_another(self) -> None:
        """Raises StokerError if the output belongs to another plan, and it isn't continued."""
        manifest = self.held.manifest
        if manifest is not None and self.options.append:
            return
        other = ", ".join(manifest.plans) if manifest is not None else self._begun()
        if other in (None, self.plan.id):
            return
        held = "holds" if manifest is not None else "was begun with"
        raise StokerError(
            f"{self.store.uri} {held} another plan ({other}, this is {self.plan.id}: input, "
            "tokenizer, options or versions differ). Choose another --output, "
            f"{self._appendable()}or --overwrite"
        )

    def _appendable(self) -> str:
        """What --append would do, if it would do anything."""
        try:
            self.held.check_fits(tokenizer_info(self.tokenizer, self.options.special_tokens))
            new = self.held.new(self.plan.inputs) if self.held.manifest is not None else []
        except StokerError:
            return ""
        return f"--append (it lacks {len(new):,} of these inputs), " if new else ""

    def begin(self) -> None:
        """Writes the plan, and finds what earlier runs of it have done."""
        content = {
            "plan": self.plan.id,
            "units": len(self.plan.units),
            "unit_bytes": self.plan.unit_bytes,
            "inputs": len(self.plan.inputs),
            "input_bytes": sum(item.size for item in self.plan.inputs),
            "settings": self.plan.settings,
            "libraries": self.plan.libraries,
        }
        self.store.write(PLAN_KEY, json.dumps(content, indent=1, sort_keys=True).encode())
        listed = ListedShards.of(self.store, self.plan.id, len(self.plan.units))
        self.ledger = Ledger.read(self.store, self.plan.id, listed)
        self.skipped = len(self.ledger.units)
        self.check_budget()

    def add(self, receipt: Receipt) -> None:
        """Takes the receipt of a unit that is done now.

        Raises:
            StokerError: more malformed rows than the job may set apart.
        """
        self.ledger.add(receipt)
        if receipt.counts.quarantined or self._settling:
            self.check_budget()

    def stop(self, unit: int, places: tuple[str, ...]) -> None:
        """Takes the first bad rows of a unit that ended for having too many; see `check_budget`."""
        self._stopped[unit] = places
        self.check_budget()

    def check_budget(self, *, finished: bool = False) -> None:
        """Raises StokerError with the first places if there are too many bad rows.

        They are the first in the order of the input, whichever units ended first: once there are
        too many, all units before the one with the last of them are waited for.

        Args:
            finished: whether no unit is to come; a share is judged then.
        """
        counts, budget = self.ledger.counts, self.options.max_bad_rows
        too_many = job_exceeds(budget, counts.quarantined, counts.rows, finished=finished)
        if not self._stopped and not too_many:
            return
        places, last = self._first_bad()
        self._settling = not finished and self._lacks_unit_before(last)
        if self._settling:
            return
        found = f": {counts.quarantined:,} of {counts.rows:,}" if finished else ""
        raise StokerError(
            f"more malformed rows than --max-bad-rows {show_budget(budget)} allows{found}; with a "
            "larger one the same command goes on from here. The first:"
            + "".join(f"\n  {place}" for place in places)
        )

    def commit(self, choice: Choice) -> None:
        """Receipts -> tables -> manifest. From then on the dataset exists."""
        self.check_budget(finished=True)
        self.choice = choice
        description = Description(
            dtype=token_dtype(self.tokenizer.largest_id).name,  # type: ignore[arg-type]
            tokenizer=tokenizer_info(self.tokenizer, self.options.special_tokens),
            tokenizer_json=self.tokenizer.blob,
            engine=choice.engine,
            engine_reason=choice.reason,
            libraries=self.plan.libraries,
            rules={self.plan.id: self.plan.rules} if self.plan.rules != DocumentRules() else {},
        )
        after = self.held.dataset if self.options.append else None
        manifest = write_tables(self.store, description, self.ledger, self.plan.inputs, after=after)
        publish(self.store, manifest, instead_of=self.held.manifest)
        self.counts, self.totals = manifest.counts, manifest.totals

    def _begun(self) -> str | None:
        try:
            return str(json.loads(self.store.read(PLAN_KEY))["plan"])
        except MissingObject:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise StokerError(f"{self.store.uri}/{PLAN_KEY} is damaged: {error}") from error

    def _first_bad(self) -> tuple[list[str], int]:
        """The first bad rows in the order of the input, and the unit with which they are too many.

        Of a share, which is judged at the end, that is the last unit with bad rows.
        """
        budget, places, found, unit = self.options.max_bad_rows, list[str](), 0, 0
        for unit in sorted({*self.ledger.quarantined, *self._stopped}):
            rows = self._stopped.get(unit) or self._bad_rows(unit)
            places.extend(rows[: PLACES_SHOWN - len(places)])
            found += len(rows)
            if unit in self._stopped or (isinstance(budget, int) and found > budget):
                break
        return places, unit

    def _lacks_unit_before(self, last: int) -> bool:
        numbers = (unit.number for unit in self.plan.units)
        return any(number < last and number not in self.ledger.units for number in numbers)

    def _bad_rows(self, unit: int) -> tuple[str, ...]:
        lines = self.store.read(f"quarantine/{self.plan.id}/{unit:08d}.jsonl").splitlines()
        rows = map(json.loads, lines)
        return tuple(f"{row['uri']} {row['place']}: {row['reason']}" for row in rows)


def _token(id: int | None, text: str | None) -> EndToken | None:
    return None if id is None or text is None else EndToken(id=id, text=text)
