# SPDX-License-Identifier: Apache-2.0
"""HTTP as a person sees it: recorded exchanges, headers that curl saved, and a small client."""
