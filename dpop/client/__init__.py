# SPDX-License-Identifier: Apache-2.0
"""The client's side: which proof a request carries, and what an answer means.

Data flows one way: an adapter describes a request (:mod:`~dpop.client._request`), the policy decides
whose it is (:mod:`~dpop.client._policy`), the flow makes its proofs and reads its answers
(:mod:`~dpop.client._flow`), with a nonce from the cache (:mod:`~dpop.client._nonces`).
"""
