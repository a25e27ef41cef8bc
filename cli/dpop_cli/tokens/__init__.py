# SPDX-License-Identifier: Apache-2.0
"""The OAuth client of the command line: its identity, its server, its token file, and its accounts in the agent."""
