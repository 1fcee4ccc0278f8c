// Preloaded (NODE_OPTIONS) into a process whose memory is looked at: at SIGUSR2 it collects its garbage and says what is
// left. The resident size would say how much garbage V8 has let lie.
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'

setFlagsFromString('--expose-gc')
const collect = runInNewContext('gc')
let asked = 0

process.on('SIGUSR2', () => {
  // What finalizers let go of in the first is collected in the second.
  collect()
  setImmediate(() => {
    collect()
    const { heapUsed, external } = process.memoryUsage()
    asked += 1
    console.log(JSON.stringify({ msg: `live memory ${asked}`, bytes: heapUsed + external }))
  })
})
