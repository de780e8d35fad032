// Loads models one after another, and says of each how it goes on: a JSON list on stdout.
//     node answers.mjs '{"models": ["one.gguf"], "mmap": true, "count": 8}'
import {getLlama} from "node-llama-cpp";

const {models, mmap, count} = JSON.parse(process.argv[2]);
const llama = await getLlama({gpu: false, build: "never", logLevel: "error"});
const loaded = [];
for (const modelPath of models)
    loaded.push(await llama.loadModel({modelPath, useMmap: mmap}));
const found = [];
for (const model of loaded) {
    const context = await model.createContext({contextSize: 256, threads: 1});
    const prompt = model.tokenize("The patient has a fever and a cough. The doctor");
    const tokens = [];
    let first;
    const answer = context.getSequence().evaluateWithMetadata(prompt, {probabilities: true});
    for await (const {token, probabilities} of answer) {
        first ??= [...probabilities].sort(([a], [b]) => a - b).map(([, share]) => share);
        tokens.push(token);
        if (tokens.length >= count) break;
    }
    found.push({tokens, first});
    await context.dispose();
}
process.stdout.write(JSON.stringify(found) + "\n", () => process.exit(0));
