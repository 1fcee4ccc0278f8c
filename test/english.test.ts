import { extname } from 'node:path'
import t from 'tap'
import { allPages, filesBelow, read } from './support/markdown.ts'

// Words and habits that make prose sound translated. Sources name the thing that acts, and so do the pages.

const SELF = 'test/english.test.ts'
const FOLDERS = ['packages', 'examples', 'test', 'bench', 'scripts', 'docs', 'findings']

/** The files that are checked, by extension, and what begins a comment of one line in them. */
const SOURCES: Readonly<Record<string, string>> = {
  ...Object.fromEntries(
    ['.ts', '.mts', '.mjs', '.cjs', '.js', '.c', '.css', '.pml'].map((each) => [each, '//']),
  ),
  ...Object.fromEntries(['.py', '.sh', '.yaml', '.yml', '.service', '.socket'].map((each) => [each, '#'])),
  '.lua': '--',
  '.html': '<!--',
}

const WORDS = [
  /\b(?:[Nn]obody|[Ss]omebody|[Ee]verybody|[Ww]hom)\b/g,
  /\banew\b/gi,
  /\bin the place of\b/gi,
  /\bcan not\b(?! only\b)/gi,
  // As a measure: "so many are accepted". Not as a degree: "so many that they wait", "why so many wait".
  /(?<!\b(?:why|not|took|takes) )\bso (?:many|long)\b(?!.*\bthat\b)/gi,
]
/** In pages as well. */
const PAGE_WORDS = [...WORDS, /\bany more\b/gi]

/** A clause without a noun as the beginning of a comment, unless it asks something. */
const HEADLESS = /^(?:Who|Whose|What)\b(?![^.:]*\?)/

function wordsIn(text: string, words: readonly RegExp[]): string[] {
  return text
    .split('\n')
    .flatMap((line, index) =>
      words.flatMap((word) => [...line.matchAll(word)].map(([found]) => `${index + 1}: ${found}`)),
    )
}

/** The comments of a source, each with the number of its first line. Lines that follow each other are one comment. */
function commentsIn(source: string, mark: string): { line: number; text: string }[] {
  const comments: { line: number; text: string }[] = []
  const begins = new RegExp(String.raw`(^|\s)(${mark}${mark === '//' ? String.raw`|/\*+` : ''})(?:\s+(.*))?$`)
  let open: 'block' | 'lines' | undefined
  for (const [index, line] of source.split('\n').entries()) {
    const [, , opening, text = ''] = begins.exec(line) ?? []
    const isWhole = opening !== undefined && line.trimStart().startsWith(opening)
    if (open === 'block' || (open === 'lines' && isWhole && opening === mark))
      comments.at(-1)!.text += ` ${line.replace(/^\s*(?:\*(?!\/)|\/\/|#|--)?\s*/, '')}`
    else if (opening === undefined) open = undefined
    else {
      comments.push({ line: index + 1, text })
      open = opening === mark && mark !== '<!--' ? (isWhole ? 'lines' : undefined) : 'block'
    }
    if (open === 'block' && /\*\/|-->/.test(line)) open = undefined
  }
  return comments.map(({ line, text }) => ({ line, text: text.trim() }))
}

function headlessIn(source: string, mark: string): string[] {
  return commentsIn(source, mark)
    .filter(({ text }) => HEADLESS.test(text))
    .map(({ line, text }) => `${line}: ${text.slice(0, 40)}`)
}

/** The page with its quotations blanked, and its lines where they were. */
function byHand(page: string): string {
  const blank = (quoted: string) => quoted.replaceAll(/[^\n]/g, ' ')
  return (
    read(page)
      .replaceAll(/^```[^]*?^```$/gm, blank)
      // Generated from the schema and from the command, which are sources.
      .replaceAll(/<!-- (?:keys|help)[^]*?<!-- (?:help: )?end -->/g, blank)
      .replaceAll(/`[^`\n]*`/g, blank)
      .replaceAll(/"[^"\n]*"/g, blank)
  )
}

const files = FOLDERS.flatMap((folder) => filesBelow(folder, ''))
  .filter((file) => !file.includes('/dist/') && file !== SELF)
  .filter((file) => extname(file) in SOURCES || file.endsWith('.json'))

void t.test('sources name what acts, in words that readers know', async (t) => {
  t.ok(files.length > 500, `${files.length} files`)
  for (const file of files) for (const found of wordsIn(read(file), WORDS)) t.fail(`${file}:${found}`)
})

void t.test('comments begin with a noun or a verb', async (t) => {
  for (const file of files) {
    const mark = SOURCES[extname(file)]
    if (mark === undefined) continue
    for (const found of headlessIn(read(file), mark)) t.fail(`${file}:${found}`)
  }
})

void t.test('pages name what acts, in words that readers know', async (t) => {
  for (const page of [...allPages(), 'CHANGELOG.md', 'SECURITY.md', 'findings/README.md'])
    for (const found of wordsIn(byHand(page), PAGE_WORDS)) t.fail(`${page}:${found}`)
})

void t.test('each rule can fail', async (t) => {
  const bad =
    'a\nNobody, somebody or everybody, whom\nbegins anew in the place of it\ncan not, so long as so many wait'
  t.same(
    wordsIn(bad, WORDS),
    '2: Nobody,2: somebody,2: everybody,2: whom,3: anew,3: in the place of,4: can not,4: so long,4: so many'.split(
      ',',
    ),
  )
  t.same(wordsIn('why so many wait, so many that some leave; it can not only wait; uid of NOBODY', WORDS), [])
  const code = [
    '/** Who waits. */',
    '/**',
    ' * Whose turn it is.',
    ' */',
    'wait() // What waits',
    '// What is it, and',
    '// does it wait?',
    '// The client',
    '// Who waits',
  ]
  t.same(headlessIn(code.join('\n'), '//'), ['1: Who waits. */', '2: Whose turn it is. */', '5: What waits'])
  t.same(headlessIn('# A line\n# What waits\n\n  # What waits', '#'), ['4: What waits'])
})
