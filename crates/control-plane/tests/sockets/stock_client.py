"""A client of the control plane that shares no code with gpart-dist: grpcio, with messages from server reflection.

Usage: stock_client.py ADDRESS [CERTIFICATE], with the token in GPART_CONTROL_TOKEN. With a certificate (a PEM file) TLS
is spoken.
Prints one line of JSON; any exception is a failure.
"""

import json
import os
import sys

import grpc
from google.protobuf import descriptor_pool, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

PACKAGE = "gpart.control.v1"


class Bearer(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor, grpc.StreamStreamClientInterceptor):
    """Adds the token to every call, reflection's too."""

    def __init__(self, token):
        self.metadata = [("authorization", f"Bearer {token}")]

    def intercept(self, proceed, details, request):
        return proceed(Details(details, list(details.metadata or []) + self.metadata), request)

    intercept_unary_unary = intercept
    intercept_unary_stream = intercept
    intercept_stream_stream = intercept


class Details(grpc.ClientCallDetails):
    """A call's details with other metadata."""

    def __init__(self, of, metadata):
        self.method, self.timeout, self.metadata = of.method, of.timeout, metadata
        self.credentials, self.wait_for_ready, self.compression = of.credentials, of.wait_for_ready, of.compression


def main():
    if len(sys.argv) > 2:
        with open(sys.argv[2], "rb") as file:
            trusted = grpc.ssl_channel_credentials(root_certificates=file.read())
        plain = grpc.secure_channel(sys.argv[1], trusted)
    else:
        plain = grpc.insecure_channel(sys.argv[1])
    channel = grpc.intercept_channel(plain, Bearer(os.environ["GPART_CONTROL_TOKEN"]))
    database = ProtoReflectionDescriptorDatabase(channel)
    pool = descriptor_pool.DescriptorPool(database)

    def message(name, package=PACKAGE):
        return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}"))

    def unary(on, method, request, answer):
        call = on.unary_unary(method, lambda m: m.SerializeToString(), answer.FromString)
        return call(request, timeout=10)

    run = f"/{PACKAGE}.RunService"
    # Health is open to everybody, everything else is not.
    health = "grpc.health.v1"
    check = message("HealthCheckRequest", health)(service=f"{PACKAGE}.RunService")
    healthy = unary(plain, f"/{health}.Health/Check", check, message("HealthCheckResponse", health)).status
    try:
        unary(plain, f"{run}/GetStatus", message("GetStatusRequest")(), message("Status"))
        refused = None
    except grpc.RpcError as error:
        refused = error.code().name

    status = unary(channel, f"{run}/GetStatus", message("GetStatusRequest")(), message("Status"))
    follow = channel.unary_stream(
        f"{run}/Follow", lambda m: m.SerializeToString(), message("Event").FromString
    )
    events = follow(message("FollowRequest")(history=100), timeout=20)
    stop = message("RequestStopRequest")(reason="asked from Python")
    unary(channel, f"{run}/RequestStop", stop, message("WishResponse"))
    seen = []
    for event in events:
        seen.append(event.WhichOneof("kind"))
        if seen[-1] == "wish_noted":
            reason = event.wish_noted.wish.stop.reason
            break
    events.cancel()
    print(
        json.dumps(
            {
                "services": sorted(database.get_services()),
                "healthy": healthy,
                "refused": refused,
                "run": status.run,
                "step": status.step,
                "hosts": [rank.host for rank in status.ranks],
                "events": seen,
                "reason": reason,
            }
        )
    )


if __name__ == "__main__":
    main()
