import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { root } from './process.ts'

/** The rules in the model's README, each with the files that implement it. */
export function modelRules(): { name: string; files: string[] }[] {
  const readme = readFileSync(join(root, 'docs/internals/model/README.md'), 'utf8')
  return [...readme.matchAll(/^\| `(\w+)` \|.*$/gm)].map(([line, name = '']) => ({
    name,
    files: [...line.matchAll(/`(packages\/[^`]+)`/g)].map(([, file = '']) => file),
  }))
}
