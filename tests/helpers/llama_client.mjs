// llama.cpp, through node-llama-cpp's prebuilt build, as a client of a GGUF file. Reads one JSON object from stdin:
//   folder   with node_modules; model: path of the GGUF file
//   texts    are tokenised, with `special` its special tokens too; rows: ids whose log-likelihood is computed, with the position of the first label
//   prompts  ids that are continued greedily by at most `limit` tokens, until `end`
// and prints one with `tokens`, `rows` (sum of log p, one a row), `answers`, and the special tokens.
import {pathToFileURL} from "node:url";
import {join} from "node:path";
import {readFileSync} from "node:fs";

const asked = JSON.parse(readFileSync(0, "utf8"));
const library = await import(pathToFileURL(join(asked.folder, "node_modules/node-llama-cpp/dist/index.js")));
const llama = await library.getLlama({gpu: false, build: "never", maxThreads: 2, logLevel: "error"});
const model = await llama.loadModel({modelPath: asked.model, gpuLayers: 0});
const context = await model.createContext({contextSize: asked.context ?? 512, threads: 2});
const sequence = context.getSequence();

// Over all logits: node-llama-cpp's filter for the largest one does not return it, and its samplers cut by default.
const whole = {logits: true, options: {temperature: 1, topK: 0, topP: 1, minP: 0}};

async function logLikelihood(ids, first) {
    await sequence.clearHistory();
    const items = ids.slice(0, -1).map((id, at) => at + 1 < first ? id : [id, {generateNext: whole}]);
    const outputs = await sequence.controlledEvaluate(items);
    let sum = 0;
    outputs.forEach((output, at) => {
        if (output === undefined) return;
        const logits = output.next.logits;
        let largest = -Infinity, total = 0;
        for (const logit of logits.values()) largest = Math.max(largest, logit);
        for (const logit of logits.values()) total += Math.exp(logit - largest);
        sum += logits.get(ids[at + 1]) - largest - Math.log(total);
    });
    return sum;
}

async function answer(ids) {
    await sequence.clearHistory();
    const given = [];
    for await (const id of sequence.evaluate(ids, {temperature: 0, yieldEogToken: true})) {
        given.push(id);
        if (id === asked.end || given.length >= asked.limit) break;
    }
    return given;
}

const rows = [], answers = [];
for (const [ids, first] of asked.rows ?? []) rows.push(await logLikelihood(ids, first));
for (const ids of asked.prompts ?? []) answers.push(await answer(ids));
const {bos, eos, shouldPrependBosToken} = model.tokens;
console.log(JSON.stringify({
    tokens: (asked.texts ?? []).map((text) => model.tokenize(text, asked.special ?? false)), rows, answers,
    bos, eos, addsBos: shouldPrependBosToken, template: model.fileInfo.metadata.tokenizer.chat_template
}));
await llama.dispose();
process.exit(0);
