//! Laws of the embedded API, asked through its public doors.
