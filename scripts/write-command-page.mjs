// Writes what `baton --help` and each `baton COMMAND --help` print into docs/reference/command.md. Run after a build.
// `--check`: writes nothing, and fails if the page differs.
import { readFileSync, writeFileSync } from 'node:fs'
// In process: starting a process for each help page would take most of the time.
import { run } from '../packages/broker/dist/cli/program.js'

const page = new URL('../docs/reference/command.md', import.meta.url)

async function help(...args) {
  const lines = []
  const refuse = (line) => {
    throw new Error(`baton ${args.join(' ')} --help: ${line}`)
  }
  const code = await run([...args, '--help'], { out: (line) => lines.push(`${line}\n`), err: refuse })
  if (code !== 0) refuse(`exit code ${code}`)
  return lines.join('')
}

const overview = await help()
const [, list] = /^Commands:\n([^]*?)\n\n/m.exec(overview)
const names = list.split('\n').map((line) => line.trim().split(' ')[0])
const helps = await Promise.all(names.map((name) => help(name)))
const sections = names.map((name, index) => `## baton ${name}\n\n\`\`\`text\n${helps[index]}\`\`\`\n`)
const text = ['```text', `${overview}\`\`\`\n`, ...sections].join('\n')

const before = readFileSync(page, 'utf8')
const after = before.replace(
  /(<!-- help: begin -->\n)[^]*(<!-- help: end -->)/,
  (_, begin, end) => `${begin}\n${text}\n${end}`,
)
if (!process.argv.includes('--check')) writeFileSync(page, after)
else if (after !== before) {
  console.error('docs/reference/command.md differs from the help texts: npm run docs')
  process.exit(1)
}
