/** Managed backends: their processes, their output, their restarts, and their way across a re-execution of the master. */
export { type BackendReport } from './backend-report.ts'
export { define, type Definition, type Generation } from './definition.ts'
export { Fleet, type FleetConfig, type FleetObserver, type FleetOptions } from './fleet.ts'
export { type ManagedProcess } from './managed-process.ts'
export { type ManagedService } from './managed-service.ts'
export { fleetClock, type FleetClock, type FleetOs, systemFleetOs } from './os.ts'
export { type ProcessExit } from '../../supervise/processes.ts'
export { type FleetState } from './state.ts'
