import { blocksOf } from './markdown.ts'

/** The commands of one block of a page, as words, without comments. @param begins first characters of the block */
export function typed(page: string, begins: string): string[][] {
  const block = blocksOf(page).find(({ text }) => text.startsWith(begins))
  if (block === undefined) throw new Error(`${page} has no block that begins with ${begins}`)
  return block.text
    .split('\n')
    .map((line) => line.replace(/ +#.*$/, '').trim())
    .filter((line) => line !== '' && !line.startsWith('#'))
    .map((line) => line.split(/ +/))
}
