// Preloaded (NODE_OPTIONS) into a process to measure its memory: on SIGUSR2 it collects garbage and prints the live
// size. The resident size would include garbage that V8 has not collected.
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'

setFlagsFromString('--expose-gc')
const collect = runInNewContext('gc')
let asked = 0

process.on('SIGUSR2', () => {
  // The second collection frees what the finalizers of the first released.
  collect()
  setImmediate(() => {
    collect()
    const { heapUsed, external } = process.memoryUsage()
    asked += 1
    console.log(JSON.stringify({ msg: `live memory ${asked}`, bytes: heapUsed + external }))
  })
})
