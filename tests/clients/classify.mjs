// The best label of each text, by transformers.js: node classify.mjs FOLDER TEXT…
import { open } from './folder.mjs';

const [, , folder, ...texts] = process.argv;
const { transformers, name } = await open(folder);
const classify = await transformers.pipeline('text-classification', name, { dtype: 'fp32' });
const answers = [];
for (const text of texts) answers.push((await classify(text))[0]);
console.log(JSON.stringify(answers));
