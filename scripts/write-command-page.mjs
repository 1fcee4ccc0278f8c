// Writes what `baton --help` and each `baton COMMAND --help` print into docs/command.md. Run after a build.
// `--check`: writes nothing, and fails when the page says something else.
import { execFileSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const page = new URL('../docs/command.md', import.meta.url)
const command = fileURLToPath(new URL('../packages/broker/bin/baton.js', import.meta.url))

function help(...args) {
  return execFileSync(process.execPath, [command, ...args, '--help'], { encoding: 'utf8' })
}

const overview = help()
const [, list] = /^Commands:\n([^]*?)\n\n/m.exec(overview)
const names = list.split('\n').map((line) => line.trim().split(' ')[0])
const sections = names.map((name) => `## baton ${name}\n\n\`\`\`text\n${help(name)}\`\`\`\n`)
const text = ['```text', `${overview}\`\`\`\n`, ...sections].join('\n')

const before = readFileSync(page, 'utf8')
const after = before.replace(
  /(<!-- help: begin -->\n)[^]*(<!-- help: end -->)/,
  (_, begin, end) => `${begin}\n${text}\n${end}`,
)
if (!process.argv.includes('--check')) writeFileSync(page, after)
else if (after !== before) {
  console.error('docs/command.md is not what the command says: npm run docs:command')
  process.exit(1)
}
