"""Calls every RPC that tidegate serves, with stubs generated from its protos by grpcio-tools.

    python every_rpc.py --proto DIR --limiter HOST:PORT --admin HOST:PORT

Prints one line for each RPC called; ends with 1 at the first answer that is wrong, and if an RPC of the protos was not
called.
"""

import argparse
import pathlib
import sys
import tempfile
import time

import grpc
from google.protobuf import duration_pb2, field_mask_pb2, timestamp_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_tools import protoc

TIMEOUT = 20
called = set()


def generate(proto: pathlib.Path) -> str:
    """Generates the stubs into a new folder and gives its path."""
    folder = tempfile.mkdtemp(prefix="tidegate-stubs-")
    well_known = pathlib.Path(protoc.__file__).parent / "_proto"
    files = [str(path.relative_to(proto)) for path in sorted(proto.rglob("*.proto"))]
    code = protoc.main(
        ["protoc", f"-I{proto}", f"-I{well_known}", f"--python_out={folder}", f"--grpc_python_out={folder}", *files]
    )
    assert code == 0, f"protoc ended with {code}"
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--proto", type=pathlib.Path, required=True)
    parser.add_argument("--limiter", required=True)
    parser.add_argument("--admin", required=True)
    arguments = parser.parse_args()
    sys.path.insert(0, generate(arguments.proto))
    from tidegate.v1 import admin_pb2, admin_pb2_grpc, limiter_pb2, limiter_pb2_grpc

    limiter_channel = grpc.insecure_channel(arguments.limiter)
    admin_channel = grpc.insecure_channel(arguments.admin)
    limiter = Service(limiter_pb2_grpc.RateLimiterServiceStub(limiter_channel), limiter_pb2, "RateLimiterService")
    admin = Service(admin_pb2_grpc.AdminServiceStub(admin_channel), admin_pb2, "AdminService")

    reflection(limiter_channel, "tidegate.v1.RateLimiterService")
    reflection(admin_channel, "tidegate.v1.AdminService")
    for channel in (limiter_channel, admin_channel):
        health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT)
        assert health.status == health_pb2.HealthCheckResponse.SERVING, health
    operate(admin, admin_pb2)
    reserve_and_settle(limiter, limiter_pb2)
    bad_input(limiter, limiter_pb2)
    pressure(limiter, limiter_pb2)
    limits(admin, limiter_pb2)
    steering(limiter, admin)
    enforcement(limiter, admin)
    many(limiter)

    every = {
        f"{service.name}/{method.name}"
        for module, service_name in ((limiter_pb2, "RateLimiterService"), (admin_pb2, "AdminService"))
        for service in [module.DESCRIPTOR.services_by_name[service_name]]
        for method in service.methods
    }
    assert called == every, f"not called: {sorted(every - called)}"
    print(f"{len(called)} RPCs called")


class Service:
    """A stub that keeps note of what was called."""

    def __init__(self, stub, messages, name):
        self.stub, self.messages, self.name = stub, messages, name

    def call(self, method, request):
        called.add(f"{self.name}/{method}")
        answer = getattr(self.stub, method)(request, timeout=TIMEOUT)
        print(f"{self.name}/{method}")
        return answer

    def fail(self, method, request, code):
        """Calls what must end with this status, and gives its details."""
        called.add(f"{self.name}/{method}")
        try:
            answer = getattr(self.stub, method)(request, timeout=TIMEOUT)
            list(answer) if hasattr(answer, "__next__") else None
        except grpc.RpcError as error:
            assert error.code() == code, f"{method}: {error.code()} instead of {code}: {error.details()}"
            print(f"{self.name}/{method}: {error.code().name}: {error.details()}")
            return error.details()
        raise AssertionError(f"{method} did not fail: {answer}")


def reflection(channel, service):
    database = ProtoReflectionDescriptorDatabase(channel)
    assert service in database.get_services(), database.get_services()


def operate(admin, pb):
    """Creates, reads, lists, changes and deletes one of each object."""
    bounds = pb.WindowBounds(prompt=pb.Bounds(floor_tpm=1000, ceiling_tpm=5000))
    objects = {
        "Tier": (pb.Tier(name="gold", bounds=bounds), dict(name="gold")),
        "Account": (pb.Account(name="acme", tier="gold"), dict(name="acme")),
        "Model": (pb.Model(name="large", variant="turbo", bounds=bounds), dict(name="large", variant="turbo")),
        "Override": (
            pb.Override(override_id="launch", scope=pb.Scope(account="acme"), bounds=bounds, reason="a launch"),
            dict(override_id="launch"),
        ),
    }
    changes = {
        "Tier": (dict(name="gold", law_profile="static"), "law_profile"),
        "Account": (dict(name="acme", blocked=True), "blocked"),
        "Model": (dict(name="large", variant="turbo", law_profile="published"), "law_profile"),
        "Override": (dict(override_id="launch", reason="a longer launch"), "reason"),
    }
    for kind, (wanted, key) in objects.items():
        field = kind.lower()
        created = admin.call(f"Create{kind}", getattr(pb, f"Create{kind}Request")(**{field: wanted}))
        assert getattr(created, field).revision == 1, created
        assert not created.persisted, "there is no durable store"
        admin.fail(
            f"Create{kind}", getattr(pb, f"Create{kind}Request")(**{field: wanted}), grpc.StatusCode.ALREADY_EXISTS
        )
        read = getattr(admin.call(f"Get{kind}", getattr(pb, f"Get{kind}Request")(**key)), field)
        assert read == getattr(created, field), read
        listed = getattr(admin.call(f"List{kind}s", getattr(pb, f"List{kind}sRequest")()), field + "s")
        assert read in listed, listed
        change, path = changes[kind]
        request = getattr(pb, f"Update{kind}Request")(
            **{field: getattr(pb, kind)(**change)}, update_mask=field_mask_pb2.FieldMask(paths=[path])
        )
        changed = getattr(admin.call(f"Update{kind}", request), field)
        assert changed.revision == 2 and getattr(changed, path) == change[path], changed
        stale = getattr(pb, f"Update{kind}Request")()
        stale.CopyFrom(request)
        stale.options.expected_revision = 1
        admin.fail(f"Update{kind}", stale, grpc.StatusCode.ABORTED)
    admin.fail("DeleteTier", pb.DeleteTierRequest(name="gold"), grpc.StatusCode.FAILED_PRECONDITION)
    for kind in ("Override", "Account", "Model", "Tier"):
        key = objects[kind][1]
        admin.call(f"Delete{kind}", getattr(pb, f"Delete{kind}Request")(**key))
        admin.fail(f"Get{kind}", getattr(pb, f"Get{kind}Request")(**key), grpc.StatusCode.NOT_FOUND)

    # Lists come in pages.
    page = admin.call("ListTiers", pb.ListTiersRequest(page_size=2))
    names = [tier.name for tier in page.tiers]
    while page.next_page_token:
        page = admin.call("ListTiers", pb.ListTiersRequest(page_size=2, page_token=page.next_page_token))
        names += [tier.name for tier in page.tiers]
    assert names == ["enterprise", "tier-1", "tier-2", "tier-3", "tier-4"], names


def reserve_and_settle(limiter, pb):
    key = pb.LimitKey(account="python", model="large", variant="turbo")
    ask = pb.CheckAndReserveRequest(
        key=key,
        prompt_tokens=1000,
        cached_prompt_tokens=400,
        max_generated_tokens=200,
        request_id="3f1f0a0e",
        reservation_ttl=duration_pb2.Duration(seconds=60),
    )
    answer = limiter.call("CheckAndReserve", ask)
    assert answer.decision == pb.DECISION_ALLOW and answer.http_status == 200, answer
    assert answer.reserved.prompt == 1000 and answer.reserved.uncached_prompt == 600, answer
    assert len(answer.windows) == 3 and answer.headers, answer
    replayed = limiter.call("CheckAndReserve", ask)
    assert replayed.replayed and replayed.reservation_id == answer.reservation_id, replayed

    identity = answer.reservation_id
    progress = limiter.call("ReportProgress", pb.ReportProgressRequest(reservation_id=identity, generated_tokens=20))
    assert progress.outcome == pb.SETTLE_OUTCOME_APPLIED, progress
    settled = limiter.call("Settle", pb.SettleRequest(reservation_id=identity, generated_tokens=50))
    assert settled.outcome == pb.SETTLE_OUTCOME_APPLIED, settled
    again = limiter.call("Settle", pb.SettleRequest(reservation_id=identity, generated_tokens=60))
    assert again.outcome == pb.SETTLE_OUTCOME_DUPLICATE, again
    windows = {status.window: status for status in limiter.call("GetLimits", pb.GetLimitsRequest(key=key)).windows}
    used = [windows[w].used_tokens for w in (pb.WINDOW_PROMPT, pb.WINDOW_UNCACHED_PROMPT, pb.WINDOW_GENERATED)]
    assert used == [1000, 600, 50], used

    ask.request_id = ""
    other = limiter.call("CheckAndReserve", ask)
    released = limiter.call("Release", pb.ReleaseRequest(reservation_id=other.reservation_id))
    assert released.outcome == pb.SETTLE_OUTCOME_APPLIED, released

    never = limiter.call("CheckAndReserve", pb.CheckAndReserveRequest(key=key, prompt_tokens=1 << 40))
    assert never.decision == pb.DECISION_RATE_LIMITED and never.reason == pb.DENY_REASON_NEVER_FITS, never
    assert never.http_status == 429 and not never.HasField("retry_after"), never
    headers = {header.name: header.value for header in never.headers}
    assert headers["x-should-retry"] == "false" and headers["x-ratelimit-limit-tokens-prompt"] == "60000", headers


def bad_input(limiter, pb):
    key = pb.LimitKey(account="python", model="large")
    details = limiter.fail(
        "CheckAndReserve", pb.CheckAndReserveRequest(key=key, prompt_tokens=0), grpc.StatusCode.INVALID_ARGUMENT
    )
    assert "prompt_tokens" in details, details
    details = limiter.fail(
        "Settle", pb.SettleRequest(reservation_id="forged"), grpc.StatusCode.INVALID_ARGUMENT
    )
    assert "reservation_id" in details, details


def pressure(limiter, pb):
    busy = pb.Pressure(model="large", variant="turbo", pressure_permille=900)
    limiter.call("ReportPressure", pb.ReportPressureRequest(reporter="python", reports=[busy]))
    busy.pressure_permille = 1_000_001
    details = limiter.fail(
        "ReportPressure",
        pb.ReportPressureRequest(reporter="python", reports=[busy]),
        grpc.StatusCode.INVALID_ARGUMENT,
    )
    assert "reports[0].pressure_permille" in details, details


def limits(admin, pb):
    listed = admin.call("ListLimits", admin.messages.ListLimitsRequest(account="python")).limits
    assert [row.key.variant for row in listed] == ["turbo"], listed
    assert len(listed[0].windows) == 3 and listed[0].tier == "tier-1", listed
    watched = admin.call("WatchLimits", admin.messages.WatchLimitsRequest(account="python"))
    first = next(watched).limits
    watched.cancel()
    assert [row.key.variant for row in first] == ["turbo"], first


def steering(limiter, admin):
    """A dry run, a boost, and the log of what was written."""
    pb = admin.messages
    until = timestamp_pb2.Timestamp(seconds=int(time.time()) + 3600)
    boost = dict(scope=pb.Scope(account="boosted"), limit_tpm=limiter.messages.Tokens(prompt=7_200_000), expire_time=until)
    log = pb.ListChangesRequest(page_size=1)
    before = admin.call("ListChanges", log)
    admin.call("Boost", pb.BoostRequest(options=pb.WriteOptions(dry_run=True), **boost))
    assert admin.call("ListChanges", log) == before
    admin.call("Boost", pb.BoostRequest(options=pb.WriteOptions(reason="launch"), **boost))
    newest = admin.call("ListChanges", log).changes[0]
    assert (newest.rpc, newest.object, newest.reason) == ("Boost", "boost/boosted", "launch"), newest
    assert newest.peer and newest.after_json and not newest.before_json, newest
    stale = pb.BoostRequest(options=pb.WriteOptions(expected_revision=1 << 40), **boost)
    admin.fail("Boost", stale, grpc.StatusCode.ABORTED)
    key = limiter.messages.LimitKey(account="boosted", model="large")
    prompt = limiter.messages.WINDOW_PROMPT
    explained = admin.call("ExplainLimit", pb.ExplainLimitRequest(key=key, window=prompt, target_tpm=7_200_000))
    assert not explained.known and len(explained.boosts) == 1, explained
    [window] = explained.windows
    assert window.motion == pb.LIMIT_MOTION_BOOSTED and window.status.limit_tpm >= 7_200_000, window
    assert window.floor_origin.source == pb.BOUND_SOURCE_TIER and window.floor_origin.name == "tier-1", window
    assert window.sentences and window.HasField("next_change_after"), window
    key.account = "nobody"
    admin.fail("ExplainLimit", pb.ExplainLimitRequest(key=key), grpc.StatusCode.NOT_FOUND)
    admin.fail("ResetLimit", pb.ResetLimitRequest(key=key), grpc.StatusCode.NOT_FOUND)


def enforcement(limiter, admin):
    """The red button, and what a request that it lets through comes to."""
    pb = admin.messages
    switch = admin.call("GetEnforcement", pb.GetEnforcementRequest()).enforcement
    assert (switch.enforcement, switch.revision) == (pb.ENFORCEMENT_ON, 1), switch
    shadow = pb.UpdateEnforcementRequest(
        enforcement=pb.ENFORCEMENT_SHADOW, options=pb.WriteOptions(expected_revision=1, reason="a drill")
    )
    turned = admin.call("UpdateEnforcement", shadow)
    assert turned.enforcement.enforcement == pb.ENFORCEMENT_SHADOW and not turned.persisted, turned
    admin.fail("UpdateEnforcement", shadow, grpc.StatusCode.ABORTED)
    admin.fail("UpdateEnforcement", pb.UpdateEnforcementRequest(), grpc.StatusCode.INVALID_ARGUMENT)

    pb = limiter.messages
    key = pb.LimitKey(account="python", model="large", variant="turbo")
    giant = pb.CheckAndReserveRequest(key=key, prompt_tokens=1 << 40)
    answer = limiter.call("CheckAndReserve", giant)
    assert answer.decision == pb.DECISION_ALLOW and answer.reserved == pb.Tokens(), answer
    told = answer.shadow_decision
    assert (told.decision, told.reason) == (pb.DECISION_RATE_LIMITED, pb.DENY_REASON_NEVER_FITS), answer
    assert told.http_status == 429 and pb.WINDOW_PROMPT in told.binding, answer
    assert not {"retry-after", "x-should-retry"} & {header.name for header in answer.headers}, answer
    for _ in range(2):
        settled = limiter.call("Settle", pb.SettleRequest(reservation_id=answer.reservation_id, generated_tokens=9))
        assert settled.outcome == pb.SETTLE_OUTCOME_APPLIED, settled

    pb = admin.messages
    admin.call("UpdateEnforcement", pb.UpdateEnforcementRequest(enforcement=pb.ENFORCEMENT_ON))
    assert limiter.call("CheckAndReserve", giant).decision == limiter.messages.DECISION_RATE_LIMITED


def many(limiter):
    """Many calls in one message, many on a stream, and the views of an answer."""
    pb = limiter.messages
    key = pb.LimitKey(account="many", model="large")
    requests = [pb.CheckAndReserveRequest(key=key, prompt_tokens=tokens) for tokens in (100, 0)]
    batch = limiter.call("BatchCheckAndReserve", pb.BatchCheckAndReserveRequest(requests=requests))
    decided, wrong = batch.results
    assert decided.response.decision == pb.DECISION_ALLOW, batch
    assert (wrong.error.code, wrong.error.field) == (3, "prompt_tokens"), batch
    settle = pb.SettleRequest(reservation_id=decided.response.reservation_id, generated_tokens=9)
    batch = limiter.call("BatchSettle", pb.BatchSettleRequest(requests=[settle, settle]))
    outcomes = [result.response.outcome for result in batch.results]
    assert outcomes == [pb.SETTLE_OUTCOME_APPLIED, pb.SETTLE_OUTCOME_DUPLICATE], batch
    calls = [
        pb.PipelineRequest(call_id=1, check_and_reserve=requests[0]),
        pb.PipelineRequest(call_id=2, settle=settle),
        pb.PipelineRequest(call_id=3, get_limits=pb.GetLimitsRequest(key=key)),
        pb.PipelineRequest(call_id=4),
    ]
    answers = {answer.call_id: answer for answer in limiter.call("Pipeline", iter(calls))}
    assert answers[1].check_and_reserve.decision == pb.DECISION_ALLOW, answers
    assert answers[2].settle.outcome == pb.SETTLE_OUTCOME_DUPLICATE, answers
    assert answers[3].get_limits.windows[0].used_tokens == 200, answers
    assert answers[4].error.reason == "INVALID_FIELD" and len(answers) == 4, answers
    for view, windows, headers in (
        (pb.RESPONSE_VIEW_HEADERS, False, True),
        (pb.RESPONSE_VIEW_WINDOWS, True, False),
        (pb.RESPONSE_VIEW_DECISION, False, False),
    ):
        answer = limiter.call("CheckAndReserve", pb.CheckAndReserveRequest(key=key, prompt_tokens=1, view=view))
        assert (bool(answer.windows), bool(answer.headers)) == (windows, headers), answer


if __name__ == "__main__":
    main()
