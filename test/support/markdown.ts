import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { root } from './process.ts'

/** One fenced block of a page. */
export interface Block {
  readonly page: string
  /** Line of its opening fence, counted from 1. */
  readonly line: number
  readonly language: string
  /** The second word of its fence: `terminal-1`, or the file a reader saves it as. */
  readonly target: string | undefined
  /** `from=PATH` in its fence: the file of the repository that it quotes. */
  readonly from: string | undefined
  readonly text: string
}

export function read(file: string): string {
  return readFileSync(join(root, file), 'utf8')
}

/** Paths from the root of all files below `folder` that end in `end`. */
export function filesBelow(folder: string, end: string): string[] {
  return readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith(end) && !file.includes('node_modules'))
    .map((file) => join(folder, file))
}

/** Every page that readers are pointed to. */
export function allPages(): string[] {
  const packages = readdirSync(join(root, 'packages')).map((name) => `packages/${name}/README.md`)
  const folders = ['docs', 'examples', 'bench'].flatMap((folder) => filesBelow(folder, '.md'))
  return ['README.md', 'CONTRIBUTING.md', ...packages, ...folders]
}

export function blocksOf(page: string): Block[] {
  const text = read(page)
  return [...text.matchAll(/^```(\w+)(?: ([^\n]+))?\n([^]*?)^```$/gm)].map((match) => {
    const [, language = '', rest = '', body = ''] = match
    const words = rest.split(' ').filter(Boolean)
    return {
      page,
      line: text.slice(0, match.index).split('\n').length,
      language,
      target: words.find((word) => !word.includes('=')),
      from: words.find((word) => word.startsWith('from='))?.slice('from='.length),
      text: body,
    }
  })
}

/** The anchors that GitHub derives from headings. */
export function anchorsOf(text: string): Set<string> {
  const headings = [...text.replaceAll(/^```[^]*?^```$/gm, '').matchAll(/^#+ (.+)$/gm)]
  return new Set(
    headings.map(([, heading = '']) =>
      heading
        .toLowerCase()
        .replaceAll(/[^\p{L}\p{N}\s_-]/gu, '')
        .replaceAll(' ', '-'),
    ),
  )
}
