# SPDX-License-Identifier: Apache-2.0
"""The frame of every command: help and options, output, configuration, secrets, and the exit status."""
