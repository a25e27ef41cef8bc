# SPDX-License-Identifier: Apache-2.0
"""The ``dpop`` command, without any protocol logic: ``dpop NAME`` is ``commands/NAME``; ``main`` lists the commands.

From the bottom up, each folder using only those before it: ``console`` (help, output, secrets, configuration) and
``wire`` (exchanges with servers); ``signing`` (key and nonce of a request); ``tokens`` (the OAuth client and its token
file); ``login``; and on top ``commands``, and the plugin of ``httpie``.
"""
