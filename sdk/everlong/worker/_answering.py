"""The part of a worker that answers queries: of runs in its hands, at rest, and from elsewhere."""

import asyncio
import logging
from contextlib import suppress

from everlong._definitions import WorkflowDefinition
from everlong._interception import Hooks
from everlong.client import Client
from everlong.client._connected import require_here
from everlong.exceptions import EverlongError, QueryFailed, StoreError, WorkflowNotFound
from everlong.worker._at_rest import answer_at_rest
from everlong.worker._keeper import RunKeeper
from everlong.worker._owned import Superseded
from everlong.worker._versions import Versions
from everlong_engine import Answer, Engine, Question, RunRow, RunStatus

__all__ = ["Answering"]

logger = logging.getLogger("everlong")

_QUERY_TRIES = 200


class Answering:
    _client: Client
    _held: Engine | None
    _hooks_of_runs: Hooks | None
    _keeper: RunKeeper | None
    _questions: set[asyncio.Task[None]]
    _versions: Versions
    _worker_id: bytes
    _workflows: dict[str, WorkflowDefinition]

    @property
    def _engine(self) -> Engine:
        """Its own hold on it: the client may be closed while the worker still runs."""
        assert self._held is not None, "a worker that has not started asks nothing"
        return self._held

    @property
    def worker_id(self) -> bytes:
        """Its name in leases."""
        return self._worker_id

    @property
    def busy(self) -> int:
        """How many attempts it has at work."""
        return 0 if self._keeper is None else len(self._keeper.activities.bench.at_work)

    def ask(self, question: Question) -> None:
        """Part of the engine's protocol."""
        task = asyncio.get_running_loop().create_task(self._answer(question))
        self._questions.add(task)
        task.add_done_callback(self._questions.discard)

    async def _answer(self, question: Question) -> None:
        records = self._client.records
        try:
            if self._engine.shared and not await self._is_for_me(question):
                self._engine.ask_again(question.question_id)
                return
            arguments = records.asked(question)
            answer = await self.query(
                question.namespace, question.workflow_id, None, question.query, arguments
            )
            reply = Answer(question.question_id, True, records.answer(question, answer))
        except EverlongError as error:
            reply = Answer(question.question_id, False, records.refusal(question, error))
        except Exception as error:
            logger.exception("%s: a query could not be answered", question.workflow_id)
            fault = EverlongError(f"the worker cannot answer: {type(error).__name__}: {error}")
            reply = Answer(question.question_id, False, records.refusal(question, fault))
        try:
            await self._engine.commits.put(reply)
        except StoreError as error:
            logger.warning("an answer could not be stored: %s", error)

    # ------------------------------------------------------------------- what clients here ask

    async def query(
        self,
        namespace: str,
        workflow_id: str,
        execution_id: bytes | None,
        name: str,
        arguments: bytes,
    ) -> bytes:
        """Answer a query of any execution that this worker hosts, open or closed.

        Raises:
            QueryFailed: there is no such query, its handler raised, or the run is blocked.
        """
        engine = self._engine
        for _ in range(_QUERY_TRIES):
            keeper = self._keeper
            if keeper is None:
                raise QueryFailed(workflow_id=workflow_id, query=name, reason="the worker stops")
            run = keeper.cache.find(namespace, workflow_id, execution_id)
            if run is not None and not (run.loading or run.releasing):
                try:
                    return await keeper.query(run, name, arguments)
                except Superseded:
                    continue
            if run is None:
                row = await engine.store.latest(engine.target(namespace, workflow_id, execution_id))
                if row is None:
                    raise WorkflowNotFound(workflow_id=workflow_id)
                require_here(row)
                if self._is_elsewhere(row):
                    reason = "it is for a worker in another process"
                    raise QueryFailed(workflow_id=workflow_id, query=name, reason=reason)
                other = self._answerer(row, name)
                if other is not self:
                    return await other.query(namespace, workflow_id, execution_id, name, arguments)
                if row.status is not RunStatus.RUNNING:
                    loaded = await engine.store.load(row.shard, row.run_id)
                    if loaded is None:
                        raise WorkflowNotFound(workflow_id=workflow_id)
                    definition = self._workflows[row.type]
                    records = self._client.records
                    hooks = self._hooks_of_runs
                    return answer_at_rest(definition, records, loaded, name, arguments, hooks)
                with keeper.loading.claiming(), keeper.cache.pinned(row.execution_id):
                    loaded = await engine.store.claim_run(self._worker_id, row.shard, row.run_id)
                    if loaded is not None:
                        keeper.loading.adopt(loaded)
                        run = keeper.cache.get(row.execution_id)
                        if run is not None and run.may_be_fed():
                            with suppress(Superseded):
                                return await keeper.query(run, name, arguments)
                if loaded is not None:
                    continue
            await asyncio.sleep(0.01)
        raise QueryFailed(workflow_id=workflow_id, query=name, reason="the run is busy; ask again")

    async def _is_for_me(self, question: Question) -> bool:
        """Whether this process has the run in hand, or may have it; the others keep silent."""
        engine = self._engine
        row = await engine.store.latest(engine.target(question.namespace, question.workflow_id))
        if row is None or self._is_elsewhere(row):
            return False
        return any(
            row.type in host._workflows for host in engine.hosts if isinstance(host, Answering)
        )

    def _is_elsewhere(self, row: RunRow) -> bool:
        """Whether a worker of another process has the run, or is to have it: a newer one."""
        engine = self._engine
        if not engine.shared:
            return False
        hosts = [host for host in engine.hosts if isinstance(host, Answering)]
        if row.owner is not None:
            return row.owner not in [host.worker_id for host in hosts]
        hosting = [host for host in hosts if row.type in host._workflows]
        mine = any(host._versions.may_have(row.type, row.version) for host in hosting)
        return row.status.is_open and bool(hosting) and not mine

    def _answerer(self, row: RunRow, query: str) -> "Answering":
        """The worker of this process that has a run in hand, or that may drive it."""
        kind, version = row.type, row.version
        hosts = [host for host in reversed(self._engine.hosts) if isinstance(host, Answering)]
        hosting = [host for host in hosts if kind in host._workflows]
        for host in hosting:
            if row.owner == host.worker_id:
                return host
        for host in hosting:
            if version in (None, host._versions.names[kind]):
                return self if version is None and self in hosting else host
        if hosting and not row.status.is_open:
            return self if self in hosting else hosting[0]
        reason = f"no worker here hosts {kind}"
        if hosting:
            reason = f"it waits for a worker of version {version}"
        raise QueryFailed(workflow_id=row.workflow_id, query=query, reason=reason)
