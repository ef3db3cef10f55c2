// What face-api.js says of faces: `node face_api.cjs < faces`, raw grey bytes of 48×48 each → a line of JSON for each face.
// NODE_PATH names the node_modules with @vladmandic/face-api, @tensorflow/tfjs and @tensorflow/tfjs-backend-wasm.
const fs = require('fs');
const path = require('path');
require('@tensorflow/tfjs');
const wasm = require('@tensorflow/tfjs-backend-wasm');
const faceapi = require('@vladmandic/face-api/dist/face-api.node-wasm.js');

const SIDE = 48;

async function main() {
  const { tf, nets } = faceapi;
  wasm.setWasmPaths(path.dirname(require.resolve('@tensorflow/tfjs-backend-wasm')) + path.sep);
  await tf.setBackend('wasm');
  await tf.ready();
  const model = path.join(path.dirname(require.resolve('@vladmandic/face-api/package.json')), 'model');
  await nets.faceExpressionNet.loadFromDisk(model);
  const bytes = fs.readFileSync(0);
  for (let start = 0; start < bytes.length; start += SIDE * SIDE) {
    const grey = tf.tensor3d(new Int32Array(bytes.subarray(start, start + SIDE * SIDE)), [SIDE, SIDE, 1], 'int32');
    const face = tf.tile(grey, [1, 1, 3]);
    const begun = process.hrtime.bigint();
    const expressions = await nets.faceExpressionNet.predictExpressions(face);
    const milliseconds = Number(process.hrtime.bigint() - begun) / 1e6;
    console.log(JSON.stringify({ milliseconds, expressions }));
    tf.dispose([grey, face]);
  }
}

main();
