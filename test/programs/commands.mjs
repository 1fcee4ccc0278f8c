// Runs `baton` once per line on stdin (a JSON list of arguments), all in this process: many failures for the cost of
// one start. RUN names the module that runs a command. Prints each exit code, and what the command wrote to stderr.
import { createInterface } from 'node:readline'

const { run } = await import(process.env.RUN)

let number = 0
for await (const line of createInterface({ input: process.stdin })) {
  let said = ''
  const terminal = { out: (text) => console.log(text), err: (text) => (said += `${text}\n`) }
  const code = await run(JSON.parse(line), terminal)
  number += 1
  console.log(JSON.stringify({ msg: `ran ${number}`, code, said }))
}
