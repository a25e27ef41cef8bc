# SPDX-License-Identifier: Apache-2.0
"""Logins of a user: in the browser of this machine, or by a code on another device."""
