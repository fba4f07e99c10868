from .task import Task as Task, find_task as find_task
