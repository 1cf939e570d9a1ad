// SPDX-License-Identifier: Apache-2.0
// htm bound to preact: templates without a compiler and without eval.
import htm from "htm";
import { h } from "preact";

export const html = htm.bind(h);
