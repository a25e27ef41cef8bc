# SPDX-License-Identifier: Apache-2.0
"""The commands: one module or folder for each, with its name; none imports another."""
