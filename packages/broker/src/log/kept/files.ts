import { readdir } from 'node:fs/promises'
import { join } from 'node:path'

/**
 * Files of kept output: `<runtimeDir>/output/SERVICE.NUMBER.log`. The one with the highest number is written to; the next one gets a higher
 * number, and the oldest is removed. No file is ever renamed, so a reader that follows needs nothing but its position.
 *
 * A number is the time at which the file was created, in ms since the Unix epoch, or higher: all lines of a file are older than the number
 * of the next one.
 */
export function outputFolder(runtimeDir: string): string {
  return join(runtimeDir, 'output')
}

export function outputFile(folder: string, service: string, number: number): string {
  return join(folder, `${service}.${number}.log`)
}

/** Names of services have no dot. */
const NAME = /^([^.]+)\.(\d{1,16})\.log$/

/**
 * Numbers of the files of each service, ascending. Empty if the folder is missing.
 *
 * @throws the error of readdir(3), other than ENOENT
 */
export async function keptFiles(folder: string): Promise<Map<string, number[]>> {
  const found = new Map<string, number[]>()
  for (const name of await namesIn(folder)) {
    const [, service, number] = NAME.exec(name) ?? []
    if (service === undefined) continue
    const numbers = found.get(service)
    if (numbers === undefined) found.set(service, [Number(number)])
    else numbers.push(Number(number))
  }
  for (const numbers of found.values()) numbers.sort((one, other) => one - other)
  return found
}

/** As `keptFiles`, of one service. */
export async function filesOf(folder: string, service: string): Promise<number[]> {
  return (await keptFiles(folder)).get(service) ?? []
}

/** ENOENT. */
export function isMissing(error: unknown): boolean {
  return Object(error).code === 'ENOENT'
}

async function namesIn(folder: string): Promise<string[]> {
  try {
    return await readdir(folder)
  } catch (error) {
    if (isMissing(error)) return []
    throw error
  }
}
