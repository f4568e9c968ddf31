// k6 beside the clients of load.py: closed loops that keep their connections, until the REST API stops them.
// The last line that it prints is the verdict: {"whole": 120, "cut": 0, "refused": 0}.
import http from 'k6/http';
import { Counter } from 'k6/metrics';
import exec from 'k6/execution';

const counters = { whole: new Counter('whole'), cut: new Counter('cut'), refused: new Counter('refused') };
const headers = { 'Content-Type': 'application/json', Authorization: `Bearer ${__ENV.KEY}` };

export const options = {
  scenarios: { chat: { executor: 'constant-vus', vus: 4, duration: '10m', gracefulStop: '60s' } },
};

/** @param {import('k6/http').RefinedResponse<'text'>} answer */
function outcome(answer) {
  if (answer.status !== 200) return 'refused';
  return answer.body.trimEnd().endsWith('data: [DONE]') ? 'whole' : 'cut';
}

export default function () {
  const content = `k6 question ${exec.vu.idInTest} ${exec.vu.iterationInScenario}`;
  const body = { model: 'standin', stream: true, messages: [{ role: 'user', content }] };
  const answer = http.post(`${__ENV.URL}/v1/chat/completions`, JSON.stringify(body), { headers, timeout: '90s' });
  counters[outcome(answer)].add(1);
}

/** @param {{metrics: Record<string, {values: {count: number}}>}} data */
export function handleSummary(data) {
  /** @type {(name: string) => number} */
  const count = (name) => (data.metrics[name] ? data.metrics[name].values.count : 0);
  return { stdout: JSON.stringify({ whole: count('whole'), cut: count('cut'), refused: count('refused') }) };
}
