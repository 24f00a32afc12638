// The mean-pooled embedding of each text, by transformers.js: node embed.mjs FOLDER TEXT…
import { open } from './folder.mjs';

const [, , folder, ...texts] = process.argv;
const { transformers, name } = await open(folder);
const embed = await transformers.pipeline('feature-extraction', name, { dtype: 'fp32' });
const vectors = [];
for (const text of texts) vectors.push((await embed(text, { pooling: 'mean' })).tolist()[0]);
console.log(JSON.stringify(vectors));
