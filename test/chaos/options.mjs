import { parseArgs } from 'node:util'

const usage =
  'usage: npm run chaos -- [--seconds N] [--seed S] [--clients N] [--patience SECONDS] [--quick] [--write]\n' +
  '       npm run chaos -- --kills N [--both] [--seed S] [--clients N] [--patience SECONDS]'

/** The options of the run. Exits with 2 if they are invalid. */
export function readOptions(args) {
  try {
    const { values } = parseArgs({
      args,
      options: {
        seconds: { type: 'string' },
        seed: { type: 'string' },
        clients: { type: 'string' },
        patience: { type: 'string' },
        kills: { type: 'string' },
        both: { type: 'boolean', default: false },
        quick: { type: 'boolean', default: false },
        write: { type: 'boolean', default: false },
      },
    })
    const { quick, write } = values
    if (write && values.kills !== undefined) throw new Error('--write is for a run without --kills')
    if (values.both && values.kills === undefined) throw new Error('--both is for a run with --kills')
    return {
      kills: values.kills === undefined ? undefined : positive(values.kills),
      both: values.both,
      seconds: positive(values.seconds, 60),
      seed: positive(values.seed, 1 + Math.floor(Math.random() * 1e9)),
      clients: positive(values.clients, quick ? 200 : 400),
      patience: positive(values.patience, 60),
      quick,
      write,
    }
  } catch (error) {
    console.error(`${error.message}\n${usage}`)
    return process.exit(2)
  }
}

function positive(text, fallback) {
  const number = Number(text ?? fallback)
  if (Number.isInteger(number) && number > 0) return number
  throw new Error(`${text} is not a whole number above 0`)
}
