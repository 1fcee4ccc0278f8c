import type { Socket } from 'node:net'

export interface Plan {
  readonly end: 'client first' | 'server first' | 'together' | 'client resets' | 'server resets'
  readonly client: { readonly length: number }
  readonly server: { readonly length: number }
}

export interface Outcome {
  readonly received: number
  readonly wrong: boolean
  readonly end: string
}

export function planOf(id: number): Plan
export function play(socket: Socket, id: number, side: 'client' | 'server', early?: Buffer): Promise<Outcome>
