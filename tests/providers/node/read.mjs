// Reads answers with openai-node: `node read.mjs FOLDER < asked.json > read.json`. FOLDER has node_modules/openai.
// `asked` is a list of {url, stream}; what is printed has in its place the choices, or {error}.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const { OpenAI } = createRequire(`${process.argv[2]}/`)("openai");
const messages = [{ role: "user", content: "hello?" }];

async function read({ url, stream }) {
  const client = new OpenAI({ baseURL: url, apiKey: "none", maxRetries: 0, timeout: 20_000 });
  try {
    const answer = stream
      ? await client.chat.completions.stream({ model: "odd", messages }).finalChatCompletion()
      : await client.chat.completions.create({ model: "odd", messages });
    return { choices: answer.choices };
  } catch (error) {
    return { error: `${error.name}: ${error.message}`.slice(0, 200) };
  }
}

const asked = JSON.parse(readFileSync(0, "utf8"));
const found = [];
for (let at = 0; at < asked.length; at += 20) {
  found.push(...(await Promise.all(asked.slice(at, at + 20).map(read))));
}
process.stdout.write(JSON.stringify(found));
