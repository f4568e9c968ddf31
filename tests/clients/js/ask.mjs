// Asks by the defaults of one client, says whether each answer was right, and prints that as JSON: what `tests.clients.asking`
// does in Python. `node --input-type=module - CLIENT < ask.mjs`, in the folder whose node_modules has it. The addresses
// and the key are in the environment alone, where the clients look for them; MODELS there says by family and provider
// which names to ask for, ADA what a provider fills a schema with, and TOGETHER which word is in a question that is asked
// twice at once.
import { readFileSync } from "node:fs";
import { crc32 } from "node:zlib";

const { MODELS, ADA, TOGETHER } = JSON.parse(process.env.TRIAL);
const calls = [];

// `ask(model, question)` gives what the client was told, which is to be `expect(question)`. For one question it has the
// provider called `steps` times, or is asked but once, where 0.
function call(name, ask, { streamed = false, steps = 1, family = "GPT", providers = Object.keys(MODELS[family]), expect = said } = {}) {
  for (const provider of providers) calls.push({ name, ask, streamed, steps, model: MODELS[family][provider], provider, expect });
}

const said = (question) => `You said: ${question}`;
const filled = () => ADA;
const embedded = (text) => [7, 8, 9, 10].map((each) => Math.fround((crc32(JSON.stringify(text)) % each) / 3)); // vector_of
const weather = ({ city }) => `It is 3 °C in ${city}`;
const user = (question) => ({ messages: [{ role: "user", content: question }] });

async function joined(parts, text = (part) => part) {
  let all = "";
  for await (const part of parts) all += text(part) ?? "";
  return all;
}

async function schemas() {
  const { z } = await import("zod");
  return { person: z.object({ name: z.string(), age: z.int() }), place: z.object({ city: z.string() }) };
}

const clients = {
  async openai() {
    const { default: OpenAI } = await import("openai");
    const { zodResponseFormat, zodTextFormat } = await import("openai/helpers/zod");
    const { person } = await schemas();
    const client = new OpenAI();
    const { completions } = client.chat;
    const parameters = { type: "object", properties: { city: { type: "string" } } };
    const tools = [{ type: "function", function: { name: "weather", parameters, parse: JSON.parse, function: weather } }];
    const response_format = zodResponseFormat(person, "person");
    const text = { format: zodTextFormat(person, "person") };

    call("chat.completions.create", async (model, question) =>
      (await completions.create({ model, ...user(question) })).choices[0].message.content);
    call("chat.completions.create", async (model, question) =>
      joined(await completions.create({ model, ...user(question), stream: true }), (chunk) => chunk.choices[0]?.delta.content),
      { streamed: true });
    call("chat.completions.stream", (model, question) => completions.stream({ model, ...user(question) }).finalContent(),
      { streamed: true });
    call("chat.completions.parse", async (model, question) =>
      (await completions.parse({ model, ...user(question), response_format })).choices[0].message.parsed, { expect: filled });
    call("chat.completions.runTools", (model, question) => completions.runTools({ model, ...user(question), tools }).finalContent(),
      { steps: 2 });
    call("chat.completions.runTools", (model, question) =>
      completions.runTools({ model, ...user(question), tools, stream: true }).finalContent(), { streamed: true, steps: 2 });
    call("responses.create", async (model, question) => (await client.responses.create({ model, input: question })).output_text);
    call("responses.create", async (model, question) =>
      joined(await client.responses.create({ model, input: question, stream: true }), (event) =>
        event.type === "response.output_text.delta" ? event.delta : ""), { streamed: true });
    call("responses.stream", async (model, question) =>
      (await client.responses.stream({ model, input: question }).finalResponse()).output_text, { streamed: true });
    call("responses.parse", async (model, question) => (await client.responses.parse({ model, input: question, text })).output_parsed,
      { expect: filled });
    call("responses, a stored chain: retrieve, inputItems, delete", async (model, question) => {
      const first = await client.responses.create({ model, input: `First: ${question}` });
      const kept = await client.responses.retrieve(first.id);
      const [asked] = (await client.responses.inputItems.list(first.id)).data;
      const second = await client.responses.create({ model, input: question, previous_response_id: first.id });
      await client.responses.delete(first.id);
      return [kept.output_text, asked.content[0].text, second.output_text];
    }, { steps: 2, expect: (question) => [said(`First: ${question}`), `First: ${question}`, said(question)] });
    call("embeddings.create", async (model, question) =>
      (await client.embeddings.create({ model, input: question })).data[0].embedding, { providers: ["OpenAI"], expect: embedded });
    const goesOn = (question) => ` after ${question}`;
    call("completions.create", async (model, prompt) => (await client.completions.create({ model, prompt })).choices[0].text,
      { providers: ["OpenAI"], expect: goesOn });
    call("completions.create", async (model, prompt) =>
      joined(await client.completions.create({ model, prompt, stream: true }), (part) => part.choices[0]?.text),
      { streamed: true, providers: ["OpenAI"], expect: goesOn });
    call("models.retrieve", async (model) => (await client.models.retrieve(model)).object, { steps: 0, expect: () => "model" });
  },

  async "@anthropic-ai/sdk"() {
    const { default: Anthropic } = await import("@anthropic-ai/sdk");
    const { zodOutputFormat } = await import("@anthropic-ai/sdk/helpers/zod");
    const { betaZodTool } = await import("@anthropic-ai/sdk/helpers/beta/zod");
    const { person, place } = await schemas();
    const { messages, beta } = new Anthropic();
    const asked = (model, question) => ({ model, max_tokens: 100, ...user(question) });
    const tools = [betaZodTool({ name: "weather", description: "Of a city", inputSchema: place, run: weather })];
    const text = (message) => message.content.map((block) => block.text ?? "").join("");
    const output_config = { format: zodOutputFormat(person) };
    const family = "CLAUDE";

    call("messages.create", async (model, question) => text(await messages.create(asked(model, question))), { family });
    call("messages.create", async (model, question) =>
      joined(await messages.create({ ...asked(model, question), stream: true }), (event) => event.delta?.text),
      { family, streamed: true });
    call("messages.stream", (model, question) => messages.stream(asked(model, question)).finalText(), { family, streamed: true });
    call("messages.parse", async (model, question) =>
      (await messages.parse({ ...asked(model, question), output_config })).parsed_output, { family, expect: filled });
    call("beta.messages.toolRunner", async (model, question) =>
      text(await beta.messages.toolRunner({ ...asked(model, question), tools })), { family, steps: 2 });
    call("beta.messages.toolRunner", async (model, question) => {
      let last;
      for await (const stream of beta.messages.toolRunner({ ...asked(model, question), tools, stream: true })) {
        last = await stream.finalMessage();
      }
      return text(last);
    }, { family, streamed: true, steps: 2 });
    call("messages.countTokens", async (model, question) =>
      (await messages.countTokens({ model, ...user(question) })).input_tokens > 0, { family, steps: 0, expect: () => true });
  },

  async "@openai/agents"() {
    const { Agent, run, tool } = await import("@openai/agents");
    const { person, place } = await schemas();
    const tools = [tool({ name: "weather", description: "Of a city", parameters: place, execute: weather })];
    const agent = (model, more) => new Agent({ name: "Helper", instructions: "Be kind.", model, ...more });
    const streamed = async (agent, question) => {
      const running = await run(agent, question, { stream: true });
      const text = await joined(running.toTextStream());
      await running.completed;
      return text;
    };
    call("run", async (model, question) => (await run(agent(model), question)).finalOutput);
    call("run", (model, question) => streamed(agent(model), question), { streamed: true });
    call("run with outputType", async (model, question) => (await run(agent(model, { outputType: person }), question)).finalOutput,
      { expect: filled });
    call("run with a tool", async (model, question) => (await run(agent(model, { tools }), question)).finalOutput, { steps: 2 });
    call("run with a tool", (model, question) => streamed(agent(model, { tools }), question), { streamed: true, steps: 2 });
  },

  async "@ai-sdk/openai"() {
    const { openai } = await import("@ai-sdk/openai");
    await vercel(openai, openai.embedding);
  },

  async "@ai-sdk/anthropic"() {
    const { anthropic } = await import("@ai-sdk/anthropic");
    await vercel(anthropic, null, "CLAUDE");
  },

  async "@ai-sdk/openai-compatible"() {
    const { createOpenAICompatible } = await import("@ai-sdk/openai-compatible");
    const provider = createOpenAICompatible({ name: "dub5", baseURL: process.env.OPENAI_BASE_URL });
    await vercel(provider, provider.embeddingModel);
  },

  async "@langchain/openai"() {
    const { ChatOpenAI, OpenAIEmbeddings } = await import("@langchain/openai");
    await langchain((model) => new ChatOpenAI({ model }));
    call("embedQuery", (model, question) => new OpenAIEmbeddings({ model }).embedQuery(question),
      { providers: ["OpenAI"], expect: embedded });
  },

  async "@langchain/anthropic"() {
    const { ChatAnthropic } = await import("@langchain/anthropic");
    await langchain((model) => new ChatAnthropic({ model }), "CLAUDE");
  },
};

async function vercel(provider, embedding, family) {
  const { Output, embed, generateText, isStepCount, streamText, tool } = await import("ai");
  const { person, place } = await schemas();
  const tools = { weather: tool({ description: "Of a city", inputSchema: place, execute: weather }) };
  const steps = { tools, stopWhen: isStepCount(3) };
  const output = Output.object({ schema: person });
  call("generateText", async (model, prompt) => (await generateText({ model: provider(model), prompt })).text, { family });
  call("streamText", (model, prompt) => joined(streamText({ model: provider(model), prompt }).textStream), { family, streamed: true });
  call("generateText, Output.object", async (model, prompt) => (await generateText({ model: provider(model), prompt, output })).output,
    { family, expect: filled });
  call("streamText, Output.object", (model, prompt) => streamText({ model: provider(model), prompt, output }).output,
    { family, streamed: true, expect: filled });
  call("generateText with a tool", async (model, prompt) => (await generateText({ model: provider(model), prompt, ...steps })).text,
    { family, steps: 2 });
  call("streamText with a tool", (model, prompt) => joined(streamText({ model: provider(model), prompt, ...steps }).textStream),
    { family, streamed: true, steps: 2 });
  if (embedding) {
    call("embed", async (model, value) => (await embed({ model: embedding(model), value })).embedding,
      { providers: ["OpenAI"], expect: embedded });
  }
}

async function langchain(made, family) {
  const { tool } = await import("@langchain/core/tools");
  const { HumanMessage } = await import("@langchain/core/messages");
  const { person, place } = await schemas();
  const tools = [tool(weather, { name: "weather", description: "Of a city", schema: place })];
  const looped = async (model, question, ask) => {
    const history = [new HumanMessage(question)];
    for (;;) {
      const answer = await ask(made(model).bindTools(tools), history);
      if (!answer.tool_calls.length) return answer.text;
      history.push(answer);
      for (const call of answer.tool_calls) history.push(await tools[0].invoke(call));
    }
  };
  const whole = async (parts) => {
    let all;
    for await (const part of await parts) all = all ? all.concat(part) : part;
    return all;
  };
  call("invoke", async (model, question) => (await made(model).invoke(question)).text, { family });
  call("stream", async (model, question) => (await whole(made(model).stream(question))).text, { family, streamed: true });
  call("withStructuredOutput, invoke", (model, question) => made(model).withStructuredOutput(person).invoke(question),
    { family, expect: filled });
  call("bindTools, invoke", (model, question) => looped(model, question, (chat, history) => chat.invoke(history)),
    { family, steps: 2 });
  call("bindTools, stream", (model, question) => looped(model, question, (chat, history) => whole(chat.stream(history))),
    { family, streamed: true, steps: 2 });
}

async function tried({ name, ask, streamed, steps, model, provider, expect }) {
  const row = { call: name, streamed, provider, asked: {}, wrong: "" };
  const question = `By ${name}, ${streamed ? "streamed" : "whole"}, of ${provider}, `;
  const check = async (text) => {
    const [told, right] = [await ask(model, text), expect(text)].map((each) => JSON.stringify(each));
    if (told !== right) throw new Error(`told ${told}, not ${right}`);
  };
  try {
    await check(`${question}alone`);
    if (steps) {
      await check(`${question}alone`);
      await Promise.all([check(question + TOGETHER), check(question + TOGETHER)]);
      row.asked = { [`${question}alone`]: steps, [question + TOGETHER]: steps };
    }
  } catch (error) {
    row.wrong = error.stack;
  }
  return row;
}

const client = process.argv.at(-1);
await clients[client]();
const rows = [];
for (const each of calls) rows.push(await tried(each));
const { version } = JSON.parse(readFileSync(`node_modules/${client}/package.json`, "utf8"));
process.stdout.write(JSON.stringify({ client: `npm ${client}`, version, rows }));
