export { FlightRecorder } from './flight-recorder.ts'
export {
  type FlightRecord,
  type FlightRecords,
  RECORDED_OUTCOMES,
  type RecordedOutcome,
  type RecordedStep,
  type RecordQuery,
} from '../../api/flight-record.ts'
export { noRecorder, type Recipient, type Recorder, type Step, type StepReason } from './recorder.ts'
