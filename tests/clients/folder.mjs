// transformers.js, from NODE_PATH, looking for models in the folder's parent and nowhere else.
import { createRequire } from 'node:module';
import { basename, dirname, resolve } from 'node:path';

export async function open(folder) {
    const require = createRequire(`${process.env.NODE_PATH}/../`);
    const transformers = require('@huggingface/transformers');
    transformers.env.allowRemoteModels = false;
    transformers.env.localModelPath = dirname(resolve(folder));
    return { transformers, name: basename(folder) };
}
