# SPDX-License-Identifier: Apache-2.0
"""A fake Google Cloud KMS, made with the client library's own types, over gRPC and over REST.

As a program it is a gRPC server and its client in one process, so that no other test forks after gRPC.
"""

from __future__ import annotations

import json
import sys
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from google.cloud import kms_v1
from google.cloud.kms_v1.services.key_management_service.transports import KeyManagementServiceGrpcTransport
from support.cloud import Asked, CloudServer, Told

from dpop import errors
from dpop.keys._public import PublicKey
from dpop.keys.kms import KmsKey
from dpop.keys.kms._gcp import GcpKms

NAME = "projects/p-1/locations/europe-west1/keyRings/ring/cryptoKeys/dpop_key/cryptoKeyVersions/3"
SHA256 = utils.Prehashed(hashes.SHA256())

ALGORITHMS: dict[str, tuple[str, Any]] = {
    "EC_SIGN_P256_SHA256": ("ES256", ec.generate_private_key(ec.SECP256R1())),
    "EC_SIGN_P384_SHA384": ("ES384", ec.generate_private_key(ec.SECP384R1())),
    "EC_SIGN_ED25519": ("Ed25519", ed25519.Ed25519PrivateKey.generate()),
    "RSA_SIGN_PSS_2048_SHA256": ("PS256", rsa.generate_private_key(65537, 2048)),
    "RSA_SIGN_PKCS1_2048_SHA256": ("RS256", rsa.generate_private_key(65537, 2048)),
    "RSA_SIGN_PSS_4096_SHA512": ("PS512", rsa.generate_private_key(65537, 4096)),
    "RSA_SIGN_PKCS1_4096_SHA512": ("RS512", rsa.generate_private_key(65537, 4096)),
}


class GoogleKms:
    """One key version and its responses: it signs digests, or for Ed25519 the data itself."""

    def __init__(self, algorithm: str = "EC_SIGN_P256_SHA256", private: Any = None) -> None:
        self.algorithm = algorithm
        self.private = private or ALGORITHMS[algorithm][1]

    def public_key(self, request: kms_v1.GetPublicKeyRequest) -> kms_v1.PublicKey:
        """GetPublicKey."""
        pem = self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return kms_v1.PublicKey(pem=pem.decode(), algorithm=self.algorithm, name=request.name)

    def sign(self, request: kms_v1.AsymmetricSignRequest) -> kms_v1.AsymmetricSignResponse:
        """AsymmetricSign."""
        digest = request.digest
        if self.algorithm == "EC_SIGN_ED25519":
            signature = self.private.sign(request.data)
        elif self.algorithm == "EC_SIGN_P384_SHA384":
            signature = self.private.sign(digest.sha384, ec.ECDSA(utils.Prehashed(hashes.SHA384())))
        elif self.algorithm.startswith("EC_"):
            signature = self.private.sign(digest.sha256, ec.ECDSA(SHA256))
        else:
            long = self.algorithm.endswith("SHA512")
            hashing = hashes.SHA512() if long else hashes.SHA256()
            pss = padding.PSS(padding.MGF1(hashing), hashing.digest_size)
            signature = self.private.sign(
                digest.sha512 if long else digest.sha256,
                pss if "PSS" in self.algorithm else padding.PKCS1v15(),
                utils.Prehashed(hashing),
            )
        return kms_v1.AsymmetricSignResponse(signature=signature, name=request.name)


class RestServer(CloudServer):
    """The KMS over REST."""

    def __init__(self, kms: GoogleKms, certificate: Path | None = None) -> None:
        super().__init__(self._response, certificate)
        self.kms = kms

    def _response(self, asked: Asked) -> Told:
        path = asked.path.partition("?")[0].removeprefix("/v1/")
        response: Any
        if asked.method == "GET" and path.endswith("/publicKey"):
            response = self.kms.public_key(kms_v1.GetPublicKeyRequest(name=path.removesuffix("/publicKey")))
        else:
            request = kms_v1.AsymmetricSignRequest.from_json(json.dumps(asked.body))
            request.name = path.removesuffix(":asymmetricSign")
            response = self.kms.sign(request)
        return Told(200, json.loads(type(response).to_json(response)))


def google_error(code: int, status: str, message: str = "") -> Told:
    """Make an error as Google's REST services write it."""
    return Told(code, {"error": {"code": code, "message": message, "status": status}})


class GrpcServer:
    """The KMS over gRPC. The next request gets the next status in ``faults``."""

    def __init__(self, kms: GoogleKms) -> None:
        self.kms = kms
        self.faults: list[grpc.StatusCode] = []
        methods = {
            "GetPublicKey": grpc.unary_unary_rpc_method_handler(
                self._or_fault(self.kms.public_key),
                kms_v1.GetPublicKeyRequest.deserialize,
                kms_v1.PublicKey.serialize,
            ),
            "AsymmetricSign": grpc.unary_unary_rpc_method_handler(
                self._or_fault(self.kms.sign),
                kms_v1.AsymmetricSignRequest.deserialize,
                kms_v1.AsymmetricSignResponse.serialize,
            ),
        }
        self._server = grpc.server(futures.ThreadPoolExecutor(8))
        service = "google.cloud.kms.v1.KeyManagementService"
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, methods),))
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def _or_fault(self, work: Any) -> Any:
        def handle(request: Any, context: grpc.ServicerContext) -> Any:
            if self.faults:
                context.abort(self.faults.pop(0), f"Permission denied on {request.name}.")
            return work(request)

        return handle

    def client(self) -> kms_v1.KeyManagementServiceClient:
        """Make a client of the server."""
        channel = grpc.insecure_channel(f"127.0.0.1:{self.port}")
        return kms_v1.KeyManagementServiceClient(transport=KeyManagementServiceGrpcTransport(channel=channel))

    def stop(self) -> None:
        """Close the server."""
        self._server.stop(None).wait()


KINDS = {
    "NOT_FOUND": errors.KeyNotFoundError,
    "PERMISSION_DENIED": errors.KeyAccessDeniedError,
    "UNAUTHENTICATED": errors.KeyAccessDeniedError,
    "FAILED_PRECONDITION": errors.KeyDisabledError,
    "INVALID_ARGUMENT": errors.InvalidKeyError,
    "ABORTED": errors.KeyUnavailableError,
    "DEADLINE_EXCEEDED": errors.KeyUnavailableError,
    "UNKNOWN": errors.KeyUnavailableError,
    "UNIMPLEMENTED": errors.DPoPKeyError,
}


def main() -> None:
    """Every algorithm signs and verifies over gRPC; every status has its error; a busy service is asked again."""
    for algorithm, (alg, private) in ALGORITHMS.items():
        server = GrpcServer(GoogleKms(algorithm, private))
        key = KmsKey.open(GcpKms(NAME, client=server.client))
        assert key.alg == alg, key
        for content in (b"", b"bytes", b"x" * 10_000):
            assert PublicKey.from_jwk(key.public_jwk).verify(alg, content, key.sign(content))
        server.faults.append(grpc.StatusCode.UNAVAILABLE)
        assert key.sign(b"bytes")
        with futures.ThreadPoolExecutor(16) as pool:
            assert all(pool.map(lambda n, key=key: key.sign(b"%d" % n), range(64)))
        for name, kind in KINDS.items():
            server.faults.append(grpc.StatusCode[name])
            with pytest.raises(errors.DPoPKeyError, match=rf"\({name}\)") as caught:
                key.sign(b"bytes")
            assert type(caught.value) is kind, (name, caught.value)
        server.stop()
        print(algorithm, key.alg)


if __name__ == "__main__":
    sys.exit(main())
