// Runs the program that COMMAND names once for each line on stdin, a JSON list of its arguments, all in this process: to see
// many of its failures for the price of one start. Says of each the exit code, and what it wrote to stderr.
import { createInterface } from 'node:readline'

let said = ''
process.stderr.write = (text) => {
  said += text
  return true
}

let number = 0
for await (const line of createInterface({ input: process.stdin })) {
  said = ''
  process.argv.splice(2, Infinity, ...JSON.parse(line))
  process.exitCode = undefined
  number += 1
  // Another query is another module, whose program runs again.
  await import(`${process.env.COMMAND}?${number}`)
  console.log(JSON.stringify({ msg: `ran ${number}`, code: process.exitCode, said }))
}
process.exitCode = 0
