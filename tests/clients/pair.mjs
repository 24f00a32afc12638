// Ids and token types of a pair of texts, by transformers.js: node pair.mjs FOLDER TEXT TEXT
import { open } from './folder.mjs';

const [, , folder, first, second] = process.argv;
const { transformers, name } = await open(folder);
const tokenizer = await transformers.AutoTokenizer.from_pretrained(name);
const inputs = tokenizer(first, { text_pair: second, return_token_type_ids: true });
const numbers = (tensor) => Array.from(tensor.data, Number);
console.log(JSON.stringify({ input_ids: numbers(inputs.input_ids), token_type_ids: numbers(inputs.token_type_ids) }));
