/** A file of this package. The path of the code that asks says nothing: the package is bundled into few files. */
export function packageFile(path: string): URL {
  return new URL(path, import.meta.resolve('@baton/broker/package.json'))
}
