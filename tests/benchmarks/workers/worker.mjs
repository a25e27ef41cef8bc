// SPDX-License-Identifier: Apache-2.0
// The npm peers, each in a process of its own; worker.py says what the orders mean.
import { createInterface } from "node:readline";
import { performance } from "node:perf_hooks";

const peer = await import(`./${process.argv[2]}.mjs`);
let prepared;

async function run(count) {
  const start = performance.now();
  for (let i = 0; i < count; i++) await prepared();
  return { seconds: (performance.now() - start) / 1000 };
}

async function storm({ count, workers, rate }) {
  const start = performance.now() + 50;
  const latencies = [];
  const failed = {};
  const client = prepared;
  let number = 0;
  async function work() {
    while (number < count) {
      const due = start + (number++ / rate) * 1000;
      const wait = due - performance.now();
      if (wait > 0) await new Promise((resolve) => setTimeout(resolve, wait));
      let outcome;
      try {
        outcome = await client();
      } catch (error) {
        outcome = error.code ?? error.name;
      }
      latencies.push((performance.now() - due) / 1000);
      if (outcome !== 200) failed[outcome] = (failed[outcome] ?? 0) + 1;
    }
  }
  await Promise.all(Array.from({ length: workers }, work));
  return { latencies, failed };
}

for await (const line of createInterface({ input: process.stdin })) {
  const { do: order, task, ...facts } = JSON.parse(line);
  let answer = {};
  if (order === "prepare") prepared = await peer[task](facts);
  else if (order === "run") answer = await run(facts.count);
  else if (order === "storm") answer = await storm(facts);
  console.log(JSON.stringify(answer));
}
