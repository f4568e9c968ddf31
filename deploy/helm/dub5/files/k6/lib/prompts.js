// Questions of five complexities. `mark` makes a question new: no answer to it can be in a cache.

const NOTE = 'The committee noted that the river had risen again and that the bridge would need another look. ';

const LOOK_UP = {
  type: 'function',
  function: {
    name: 'look_up_weather',
    description: 'The weather at a place.',
    parameters: { type: 'object', properties: { place: { type: 'string' } }, required: ['place'] },
  },
};

/**
 * @typedef {{role: string, content: string}} Message
 * @typedef {{messages: Message[], tools?: object[]}} Asked
 */

/** @type {(content: string) => Message} */
const user = (content) => ({ role: 'user', content });
/** @type {(content: string) => Message} */
const assistant = (content) => ({ role: 'assistant', content });

/** @type {Record<string, (mark: string) => Asked>} */
const MAKERS = {
  short: (mark) => ({ messages: [user(`Question ${mark}: why is the sky blue?`)] }),
  long: (mark) => ({ messages: [user(`Notes ${mark}: ${NOTE.repeat(80)}\nWhat follows from these notes, in three sentences?`)] }),
  turns: (mark) => ({
    messages: [
      user(`Conversation ${mark}. What is a tide?`),
      assistant('The sea rises and falls twice a day, because the moon draws it.'),
      user('Why twice, and not once?'),
      assistant('There is one bulge towards the moon and one on the far side.'),
      user('And what does the sun do?'),
    ],
  }),
  tool: (mark) => ({ messages: [user(`Request ${mark}: use look_up_weather for Lisbon.`)], tools: [LOOK_UP] }),
  code: (mark) => ({ messages: [user(`Task ${mark}: review this and write a better one.\n\ndef f(a):\n    r = []\n    for i in range(len(a)):\n        r = [a[i]] + r\n    return r\n`)] }),
};

/** @param {string} complexity */
export function known(complexity) {
  return complexity in MAKERS;
}

/**
 * Messages, and tools where there are any.
 * @param {string} complexity
 * @param {string} mark
 */
export function prompt(complexity, mark) {
  return MAKERS[complexity](mark);
}

/**
 * A question of about so many tokens, at four characters each.
 * @param {string} mark
 * @param {number} tokens
 * @returns {Asked}
 */
export function sized(mark, tokens) {
  const opening = `Question ${mark}: what follows from these notes? `;
  return { messages: [user((opening + 'note '.repeat(tokens)).slice(0, Math.max(opening.length, tokens * 4)))] };
}
